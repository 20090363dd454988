"""Weights in the layout of the kernels: packed into panels, vectors padded to whole panels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from recfx.kernels.codes import WeightFormat
from recfx.kernels.library import Library
from recfx.kernels.memory import address

#: Number formats of a packed weight.
FORMATS: dict[torch.dtype, WeightFormat] = {
    torch.float32: WeightFormat.F32,
    torch.bfloat16: WeightFormat.BF16,
    torch.int8: WeightFormat.I8,
}


class Packer:
    """Packs weights for one instruction-set level, each once for all plans of a program.

    Args:
        library: The kernel library.
        level: The level's name.

    Attributes:
        kept: The tensors to which plans point, by address. Plans keep them alive.
        tables: The tables among them.
        columns: Columns of a panel.
    """

    def __init__(self, library: Library, level: str) -> None:
        self._calls = library.calls
        self._level = level.encode()
        self.columns = int(self._calls["recfx_panel_columns"](self._level))
        self._made: dict[tuple[Any, ...], torch.Tensor] = {}
        self._sources: list[torch.Tensor] = []
        self.kept: dict[int, torch.Tensor] = {}
        self.tables: dict[int, torch.Tensor] = {}

    def keep(self, tensor: torch.Tensor) -> int:
        """The address of a tensor, which then lives as long as the plans."""
        at = address(tensor)
        self.kept[at] = tensor
        return at

    def table(self, tensor: torch.Tensor) -> int:
        """As `keep`, for a table."""
        self.tables[tensor.data_ptr()] = tensor
        return self.keep(tensor)

    def made(self, make: Callable[[], torch.Tensor]) -> int:
        """The address of the tensor that `make` returns."""
        return self.keep(make())

    def weight(self, weight: torch.Tensor) -> tuple[int, WeightFormat]:
        """Packs a weight [N, K].

        Returns:
            Its address and its format.
        """
        return self.once("weight", weight, 0, lambda: self.pack(weight.detach())), FORMATS[weight.dtype]

    def vector(self, vector: torch.Tensor, n: int) -> int:
        """The address of a vector of `n` float32 (one value is repeated), padded with zeros to whole panels."""

        def padded() -> torch.Tensor:
            whole = torch.zeros(-(-n // self.columns) * self.columns, dtype=torch.float32)
            whole[:n] = vector.detach().float().reshape(-1)
            return whole

        return self.once("vector", vector, n, padded)

    def column_sums(self, weight: torch.Tensor) -> int:
        """The address of the int32 sums over each row of an int8 weight [N, K], padded."""

        def sums() -> torch.Tensor:
            whole = torch.zeros(-(-weight.shape[0] // self.columns) * self.columns, dtype=torch.int32)
            whole[: weight.shape[0]] = weight.detach().to(torch.int32).sum(1)
            return whole

        return self.once("sums", weight, 0, sums)

    def once(self, kind: str, source: torch.Tensor, n: int, make: Callable[[], torch.Tensor]) -> int:
        """The address of the tensor that `make` returns for a source. `make` is called once for each source, `kind` and `n`."""
        key = (kind, source.data_ptr(), source.dtype, tuple(source.shape), source.stride(), n)
        if key not in self._made:
            self._sources.append(source)  # keeps the address from being used again while the packer lives
            self._made[key] = make()
            self.keep(self._made[key])
        return self._made[key].data_ptr()

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight [N, K] in panels."""
        format_ = FORMATS[weight.dtype]
        n, k = weight.shape
        depth = int(self._calls["recfx_unit_depth"](self._level, format_))
        panels = -(-n // self.columns)
        packed = aligned(panels * self.columns * -(-k // depth))
        source = (weight if format_ is WeightFormat.I8 else weight.float()).contiguous()
        self._calls["recfx_pack"](self._level, format_, address(source), n, k, address(packed))
        return packed


class DryPacker(Packer):
    """Packs nothing, for a dry run of the rules: every address is 0."""

    def keep(self, tensor: torch.Tensor) -> int:
        return 0

    def table(self, tensor: torch.Tensor) -> int:
        return 0

    def made(self, make: Callable[[], torch.Tensor]) -> int:
        return 0

    def once(self, kind: str, source: torch.Tensor, n: int, make: Callable[[], torch.Tensor]) -> int:
        return 0


def shape_only(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same dtype, sizes and strides without memory. A single number is returned as it is: rules read its value."""
    if tensor.numel() <= 1 or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def aligned(units: int) -> torch.Tensor:
    """`units` 32-bit integers on a cache-line boundary."""
    raw = torch.empty(units + 16, dtype=torch.int32)
    skip = (-raw.data_ptr() % 64) // ctypes.sizeof(ctypes.c_int32)
    return raw[skip : skip + units]
