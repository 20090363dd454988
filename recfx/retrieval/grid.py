"""The grid of codes: x_hat = lower + step * code, for the whole table, per row or per dimension.

Rows whose levels lie symmetrically about zero need one constant each: x_hat = step * (code - (2^bits - 1) / 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.formats.searchable import LARGEST, unfit
from recfx.formats.symmetric import lowest, nearest_codes
from recfx.kernels.searches import BLOCK

Kind = Literal["table", "row", "symmetric", "dimension"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_EPS = 2.0**-21  # a few roundings of float32


@dataclass(frozen=True)
class Grid:
    """The map from codes to values.

    Attributes:
        lower: The value of code 0: float32 [] for the table, [n] per row, [d] per dimension. For symmetric rows: the
            value of code 0 in steps, [].
        step: The difference between the values of neighbouring codes, not negative: [], [n] or [d].
        kind: The codes that share constants.
    """

    lower: Tensor
    step: Tensor
    kind: Kind

    @property
    def by_row(self) -> bool:
        """Whether rows have constants of their own."""
        return self.kind in ("row", "symmetric")

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Half the step, and the middle of the two values of a 1-bit code; cached, as every query of 1 bit reads them.
        Not for symmetric rows, whose middle is zero. Constants of rows are padded to whole blocks, which searches read.
        """
        half, lower = self.step / 2, self.lower
        if self.kind == "row":
            room = (0, -len(half) % BLOCK)
            half, lower = (torch.nn.functional.pad(part, room) for part in (half, lower))
        return half, lower + half

    @cached_property
    def constants(self) -> tuple[float, float]:
        """Lower and step of the table's grid as numbers, cached."""
        return float(self.lower), float(self.step)

    @cached_property
    def lower_in_steps(self) -> float:
        """The value of code 0 of symmetric rows in steps, as a number, cached."""
        return float(self.lower)

    @cached_property
    def half_constants(self) -> tuple[float, float]:
        """Middle and half step of the table's grid as numbers, cached."""
        half, middle = self.halves
        return float(middle), float(half)

    def rows(self, ids: Tensor | slice) -> Grid:
        """The grid of some rows."""
        if not self.by_row:
            return self
        return Grid(self.lower[ids] if self.kind == "row" else self.lower, self.step[ids], self.kind)

    def with_lower_ends(self) -> Grid:
        """The same grid of rows, with a lower end for each row."""
        return self if self.kind == "row" else Grid(self.lower * self.step, self.step, "row")

    def encode(self, values: Tensor, bits: int) -> Tensor:
        """The nearest codes of float32 values [n, d]; values outside the grid get the code of the nearer end."""
        lower, step = self._columns()
        if bits == 1:  # a value on the boundary is code 0, as the sign of zero is
            return (values > lower + step / 2).to(torch.uint8)
        return nearest_codes(values, lower, step, bits)

    def decode(self, codes: Tensor) -> Tensor:
        """The values of codes, float32 [n, d]."""
        lower, step = self._columns()
        return codes.float().mul_(step).add_(lower)

    def _columns(self) -> tuple[Tensor, Tensor]:
        if not self.by_row:
            return self.lower, self.step
        step = self.step[:, None]
        return (self.lower[:, None] if self.kind == "row" else self.lower * step), step


def symmetric(step: Tensor, bits: int) -> Grid:
    """The grid of rows with levels symmetric about zero, from their steps, float32 [n]."""
    return Grid(torch.tensor(lowest(bits), dtype=torch.float32), step, "symmetric")


def _of_rows(lower: Tensor, step: Tensor, bits: int) -> Grid:
    """The grid of a caller's constants of rows, [n]; symmetric if all rows are, to within a few roundings."""
    found = symmetric(step, bits)
    if len(step) and bool(((lower - found.lower * step).abs() <= _EPS * lower.abs()).all()):
        return found
    return Grid(lower, step, "row")


def given(lower: Tensor | float | None, step: Tensor | float | None, rows: int, dim: int, bits: int) -> Grid:
    """The grid of a caller's constants: [] for the table, [n, 1] per row, [1, d] or [d] per dimension. Without
    constants, the values of codes are -1 and 1 at one bit, and the codes themselves otherwise.

    Raises:
        InputError: The shape of the constants does not fit, they are not finite or too large, or a step is negative.
    """
    if lower is None and step is None:
        lower, step = (-1.0, 2.0) if bits == 1 else (0.0, 1.0)
    low, high = _constants(lower, step)
    shape = (low + high).shape
    low, high = low.expand(shape), high.expand(shape)
    if low.numel() == 1 and low.ndim <= 2 and (rows != 1 or low.ndim == 0):
        return Grid(low.reshape(()).clone(), high.reshape(()).clone(), "table")
    if low.shape == (rows, 1):
        return _of_rows(low[:, 0].clone(), high[:, 0].clone(), bits)
    if low.shape in ((dim,), (1, dim)):
        return Grid(low.reshape(dim).clone(), high.reshape(dim).clone(), "dimension")
    raise InputError(
        f"lower and step are {list(low.shape)}; [], [{rows}, 1] and [1, {dim}] fit the codes",
        hint="pass one pair for the table, for each row, or for each column",
    )


def given_rows(lower: Tensor | float | None, step: Tensor | float | None, rows: int, bits: int) -> Grid:
    """The grid of constants of rows, [n, 1] or [n].

    Raises:
        InputError: As in `given`.
    """
    low, high = (t.reshape(-1) for t in _constants(lower, step))
    if len(low) != rows or len(high) != rows:
        raise InputError(
            f"{rows} rows need as many lower ends and steps, got {len(low)} and {len(high)}",
            hint="pass one pair for the table, for each row, or for each column",
        )
    return _of_rows(low.clone(), high.clone(), bits)


def _constants(lower: Tensor | float | None, step: Tensor | float | None) -> tuple[Tensor, Tensor]:
    if lower is None or step is None:
        raise InputError("lower and step go together", hint="give both or neither")
    low, high = (torch.as_tensor(t).detach().to("cpu", torch.float32) for t in (lower, step))
    for name, tensor in (("lower", low), ("step", high)):
        if not bool((tensor.abs() <= LARGEST).all()):
            raise InputError(
                f"{name} holds NaN, infinities or numbers beyond {LARGEST:g}",
                hint="remove or replace these numbers first",
            )
    if bool((high < 0).any()):
        raise InputError(
            "a step is negative", hint="invert the codes of that row or dimension, and give the positive step"
        )
    return low, high


def plain(values: Tensor, dim: int | None, what: str) -> Tensor:
    """Embeddings as a contiguous float32 matrix on the CPU.

    Raises:
        InputError: The rank, width or type is wrong.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.ndim != 2:
        got = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"{what} must be a floating-point tensor [n, d], got {got}",
            where="recfx.retrieval",
            hint="convert it with .float(); one row for each item or query",
        )
    if values.layout is not torch.strided or values.is_meta:
        raise InputError(
            f"{what} must be a dense tensor, got {values.layout} on {values.device}",
            where="recfx.retrieval",
            hint="pass a strided tensor on the CPU: tensor.to_dense().cpu()",
        )
    if not values.shape[1] or (dim is not None and values.shape[1] != dim):
        wanted = "at least one column" if dim is None else f"{dim} columns"
        raise InputError(
            f"{what} must have {wanted}, got {values.shape[1]}",
            where="recfx.retrieval",
            hint="pass as many columns as the index has",
        )
    ready = values.dtype == torch.float32 and values.is_contiguous() and values.is_cpu and not values.is_neg()
    if ready and not values.requires_grad:
        return values  # skips calls into torch without an effect, whose time is noticeable in a single query on cold caches
    return values.detach().to("cpu", torch.float32).resolve_neg().contiguous()


def checked(values: Tensor, dim: int | None, what: str) -> Tensor:
    """As `plain`, and checks that a search can rank by all numbers.

    Raises:
        InputError: As in `plain`; or a number is NaN, infinite or too large.
    """
    rows = plain(values, dim, what)
    # The extremes are NaN if any number is NaN.
    if rows.numel() and not bool(torch.stack(rows.aminmax()).abs().max() <= LARGEST):
        raise unfit(int((~(rows.abs() <= LARGEST)).any(1).nonzero()[0]), what)
    return rows
