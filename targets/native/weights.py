"""Weights as the kernels want them: packed into panels, vectors padded to whole panels."""

from __future__ import annotations

import ctypes

import torch

from recfx.targets.native.library import Library

#: Number formats of a packed weight.
FORMATS: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


class Packer:
    """Packs weights for one instruction-set level and keeps what it made alive.

    Args:
        library: The kernel library.
        level: The level's name.
    """

    def __init__(self, library: Library, level: str) -> None:
        self._calls = library.calls
        self._level = level.encode()
        self._columns = int(self._calls["recfx_panel_columns"](self._level))
        self._packed: dict[tuple[int, tuple[int, ...], tuple[int, ...], int], torch.Tensor] = {}
        self.kept: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor) -> int:
        """The address of a tensor that shall live as long as the plan."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def weight(self, weight: torch.Tensor) -> tuple[int, int]:
        """Packs [N, K]; the same weight is packed once.

        Returns:
            Its address and its format's number.
        """
        weight = weight.detach()
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), FORMATS[weight.dtype])
        if key not in self._packed:
            self.kept.append(weight)  # its address is the key
            self._packed[key] = self._pack(weight)
        packed = self._packed[key]
        return packed.data_ptr(), key[3]

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        format_ = FORMATS[weight.dtype]
        n, k = weight.shape
        depth = int(self._calls["recfx_unit_depth"](self._level, format_))
        panels = -(-n // self._columns)
        packed = aligned(panels * self._columns * -(-k // depth))
        source = (weight if format_ == 2 else weight.float()).contiguous()
        self._calls["recfx_pack"](self._level, format_, source.data_ptr(), n, k, packed.data_ptr())
        return packed

    def vector(self, vector: torch.Tensor, n: int) -> int:
        """The address of a vector of `n` float32 (one value is repeated), padded with zeros to whole panels."""
        padded = torch.zeros(-(-n // self._columns) * self._columns)
        padded[:n] = vector.detach().float().reshape(-1)
        return self.keep(padded)

    def column_sums(self, weight: torch.Tensor) -> int:
        """The address of the int32 sums over each row of an int8 weight [N, K], padded."""
        padded = torch.zeros(-(-weight.shape[0] // self._columns) * self._columns, dtype=torch.int32)
        padded[: weight.shape[0]] = weight.detach().to(torch.int32).sum(1)
        return self.keep(padded)


def aligned(units: int) -> torch.Tensor:
    """`units` 32-bit integers on a cache-line boundary."""
    raw = torch.empty(units + 16, dtype=torch.int32)
    skip = (-raw.data_ptr() % 64) // ctypes.sizeof(ctypes.c_int32)
    return raw[skip : skip + units]
