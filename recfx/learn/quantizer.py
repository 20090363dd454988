"""The quantiser: bits, bounds and an estimator behind one interface."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn._blocks import in_blocks
from recfx.learn.bounds import Bounds, make_bounds
from recfx.learn.codes import QuantizedTable, check_bits
from recfx.learn.estimators import ESTIMATORS, Estimator
from recfx.learn.estimators.base import to_grid

_LEAST_SPAN = 1e-30  # least divisor, for a block without spread; far below any embedding


class Grid(NamedTuple):
    """A block of embeddings on the grid of its quantiser.

    Attributes:
        x: [n, d], embeddings over their bounds, (x - l) / (u - l), not clipped.
        lower: l, broadcastable to x.
        span: u - l, broadcastable to x, positive.
    """

    x: Tensor
    lower: Tensor
    span: Tensor


class Quantizer(nn.Module):
    """Rounds embeddings to 2**bits values, with a gradient by an estimator.

        x_n = clip((x - l) / (u - l), 0, 1),  x_q = round(x_n L) / L,  x_hat = l + (u - l) x_q,  L = 2**bits - 1

    While training, the bounds also observe the block of every call. A block without spread becomes its lower bound. At
    one bit x_hat is either bound; halves between two codes round to the even code. If the bounds have a centre, it is
    subtracted from x and added to x_hat.

    Args:
        bits: 1, 2, 4 or 8.
        bounds: Computes l and u.
        estimator: Rounds, and defines the gradient.

    Raises:
        InputError: The bits are unknown.
    """

    def __init__(self, bits: int, bounds: Bounds, estimator: Estimator) -> None:
        super().__init__()
        check_bits(bits, "Quantizer")
        self.bits = bits
        self.bounds = bounds
        self.estimator = estimator

    @property
    def steps(self) -> int:
        """L = 2**bits - 1."""
        return (1 << self.bits) - 1

    def forward(self, x: Tensor) -> Tensor:
        """[n, d] -> the rounded embeddings, [n, d].

        Raises:
            InputError: x is not a floating-point matrix with columns; it holds NaN while statistics are gathered; or the
                bounds are not set yet.
        """
        self._check(x)
        if self.training:
            self.bounds.observe(x.detach())
        ends = () if self.bounds.row_wise else self._ends(x)
        if not self.estimator.repeatable:
            return self._round(x, *ends)
        guarded = *self.estimator.buffers(), *(() if self.bounds.centre is None else (self.bounds.centre,))
        return in_blocks(self._round, x, ends, guarded=guarded)

    def grid(self, x: Tensor) -> Grid:
        """A block [n, d] over its bounds; the bounds do not observe it."""
        grid, centre = self._grid(x)
        return grid if centre is None else grid._replace(lower=grid.lower + centre)

    def _grid(self, x: Tensor) -> tuple[Grid, Tensor | None]:
        """A block over its bounds after subtraction of the centre, and the centre."""
        self._check(x)
        centre = self._centre(x)
        x = x if centre is None else x - centre
        lower, span = self._ends(x)
        return Grid((x - lower) / span, lower, span), centre

    def _centre(self, x: Tensor) -> Tensor | None:
        centre = self.bounds.centre
        if centre is not None and centre.shape[-1] != x.shape[-1]:
            raise InputError(
                f"a centre {list(centre.shape)} cannot fit {list(x.shape)}",
                where="Quantizer",
                hint="pass one value for the table, for each row, or for each column",
            )
        return centre

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of l and u - l, which later changes of the bounds do not reach."""
        lower, upper = self.bounds(x)
        shared = x.numel() / max(lower.numel(), 1)
        lower, upper = (self.estimator.scale_bounds(b, shared, self.steps) for b in (lower, upper))
        span = (upper - lower).clamp(min=max(_LEAST_SPAN, torch.finfo(x.dtype).tiny))
        return lower.clone(), span

    def _round(self, x: Tensor, *ends: Tensor) -> Tensor:
        centre = self._centre(x)
        x = x if centre is None else x - centre
        lower, span = ends or self._ends(x)
        rounded: Tensor = self.estimator((x - lower) / span, self.steps, span)
        found = lower + span * rounded
        return found if centre is None else found + centre

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The integer codes of a block.

        Args:
            x: [n, d].

        Returns:
            uint8 [n, d] in [0, 2**bits - 1].

        Raises:
            InputError: x is not a floating-point matrix, holds NaN, or the bounds are not set yet.
        """
        return self._codes(self.grid(x))

    @torch.no_grad()
    def table(self, x: Tensor) -> QuantizedTable:
        """A block [n, d] as codes with the constants that restore embeddings, for storing and serving.

        Raises:
            InputError: As for `codes`.
        """
        grid, centre = self._grid(x)
        centre = None if centre is None else centre.clone()
        return QuantizedTable(self._codes(grid), grid.lower, grid.span / self.steps, self.bits, centre)

    def _codes(self, grid: Grid) -> Tensor:
        if bool(grid.x.isnan().any()):
            row = int(grid.x.isnan().any(1).nonzero()[0])
            raise InputError(f"row {row} of the embeddings holds NaN", where="Quantizer", hint="NaN has no code")
        return to_grid(grid.x, self.steps).mul_(self.steps).round_().to(torch.uint8)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or not x.is_floating_point() or not x.shape[1]:
            raise InputError(
                f"expected a floating-point matrix with columns, got {x.dtype} {list(x.shape)}",
                where="Quantizer",
                hint="convert it with .float(), and pass one row for each item",
            )

    def extra_repr(self) -> str:
        """The bits, for the printed form."""
        return f"bits={self.bits}"


class SymmetricQuantizer(Quantizer):
    """A quantiser with an odd number of codes, of which the middle one is the middle of the bounds: L = 2**bits - 2."""

    @property
    def steps(self) -> int:
        """L = 2**bits - 2: at 8 bits, codes from -127 to 127."""
        return (1 << self.bits) - 2


def make_quantizer(
    bits: int,
    estimator: str = "gste",
    bounds: str = "per-row",
    *,
    dim: int | None = None,
    estimator_options: dict[str, Any] | None = None,
    bounds_options: dict[str, Any] | None = None,
) -> Quantizer:
    """Builds a quantiser by names. With bounds per row, an estimator's option `clip` is False by default: the scale of
    a sign lies inside the range of its row, and clipped values beyond it would never learn.

    Args:
        bits: 1, 2, 4 or 8.
        estimator: One of `recfx.learn.ESTIMATORS`: ste, gste, gaussian, fourier, lsq, guidance.
        bounds: One of `recfx.learn.BOUNDS`: learned, ema-minmax, ema-percentile, sigma, per-row, centred-row,
            per-dimension.
        dim: Columns of the table; bounds per dimension and centred bounds need it.
        estimator_options: Arguments of the estimator's class.
        bounds_options: Arguments of the bounds' class.

    Raises:
        InputError: A name or the bits are unknown, or options do not fit.
    """
    check_bits(bits, "make_quantizer")
    if estimator not in ESTIMATORS:
        raise InputError(
            f"the estimator {estimator!r} is unknown", where="make_quantizer", hint=f"one of {', '.join(ESTIMATORS)}"
        )
    options = dict(estimator_options or {})
    if bounds in ("per-row", "centred-row") and "clip" in inspect.signature(ESTIMATORS[estimator]).parameters:
        options.setdefault("clip", False)
    try:
        return Quantizer(
            bits,
            make_bounds(bounds, bits, dim, **(bounds_options or {})),
            ESTIMATORS[estimator](**options),
        )
    except TypeError as error:
        raise InputError(
            f"options that do not fit: {error}",
            where=f"{estimator} with {bounds} bounds",
            hint="see the arguments of the estimator and of the bounds",
        ) from error
