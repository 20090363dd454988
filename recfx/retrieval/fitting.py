"""Grids for embeddings: by their extremes, or with levels symmetric about zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recfx.formats._progress import progress
from recfx.retrieval.grid import Grid, Kind, symmetric

_ROUNDS = 3  # of rounding to a row's levels and moving them
_SAMPLED = 4096
_BLOCK_VALUES = 1 << 22
# The distance of levels that loses least on normal values (Max, "Quantizing for minimum distortion", 1960, table II), over their
# mean magnitude sqrt(2 / pi): where rows begin.
_FIRST_STEP = {2: 1.248, 4: 0.420, 8: 0.0388}


class Fit(NamedTuple):
    """How embeddings are rounded.

    Attributes:
        grid: What their codes stand for.
        rounding: The grid whose nearest values give the codes; for most the same.
    """

    grid: Grid
    rounding: Grid


def fit(values: Tensor, bits: int, kind: Kind) -> Fit:
    """The grid of float32 values [n, d].

    At 1 bit the two values are -s and s, s being the mean magnitude, which has the least squared error for signs; with more
    bits, the grid spreads from the smallest value to the largest, or its levels lie symmetrically about zero, see `_symmetric`.
    """
    if bits == 1 and kind in ("row", "symmetric"):
        return _same(symmetric(2 * values.abs().mean(1), 1))
    if kind == "symmetric":
        return _symmetric(values, bits)
    axis = {"table": (0, 1), "row": (1,), "dimension": (0,)}[kind]
    if not values.numel():
        shape = {"table": (), "row": (len(values),), "dimension": (values.shape[1],)}[kind]
        return _same(Grid(torch.zeros(shape), torch.zeros(shape), kind))
    if bits == 1:
        scale = values.abs().mean(axis)
        return _same(Grid(-scale, 2 * scale, kind))
    lower = values.amin(axis)
    return _same(Grid(lower, (values.amax(axis) - lower) / ((1 << bits) - 1), kind))


def better_rows(values: Tensor, bits: int) -> Kind:
    """Whether `symmetric` or `row` suits embeddings [n, d]: which of the two loses less of some of them."""
    some = values[:: max(1, len(values) // _SAMPLED)]
    lost = {kind: _lost(some, fit(some, bits, kind), bits) for kind in ("symmetric", "row")}
    return "symmetric" if lost["symmetric"] <= lost["row"] else "row"


def _same(grid: Grid) -> Fit:
    return Fit(grid, grid)


def _lost(values: Tensor, fitted: Fit, bits: int) -> float:
    """What of the squared lengths of rows is across what their codes stand for: the part of the error that no scale mends."""
    held = fitted.grid.decode(fitted.rounding.encode(values, bits))
    product, own, length = ((a * b).sum(1).double() for a, b in ((values, held), (held, held), (values, values)))
    return float((length - product**2 / own.clamp(min=1e-300)).sum())


def _symmetric(values: Tensor, bits: int) -> Fit:
    """Levels (code - (2^bits - 1) / 2) * step.

    Rows are rounded, and the step is moved to the least squared error, in turn: that gives the codes. They stand for levels a little
    further apart, at the step for which <x_hat, x> = <x, x>, as RaBitQ has it (Gao and Long, SIGMOD 2024): so dot products are not
    underrated, in expectation over directions, and rows that round badly rank as those that round well.
    """
    near, steps = torch.empty(len(values)), torch.empty(len(values))
    with progress(f"fitting {len(values):,} rows", len(values)) as advance:
        for rows in _blocks(values):
            x = values[rows]
            step = x.abs().mean(1) * _FIRST_STEP[bits]
            for _ in range(_ROUNDS):
                levels = _levels(x, step, bits)
                step = _over((x * levels).sum(1), (levels * levels).sum(1))
            near[rows] = step
            steps[rows] = _over((x * x).sum(1), (x * _levels(x, step, bits)).sum(1))
            advance(len(x))
    return Fit(symmetric(steps, bits), symmetric(near, bits))


def _levels(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """The nearest levels over the step."""
    return symmetric(step, bits).encode(x, bits).float() - ((1 << bits) - 1) / 2


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is."""
    return torch.where(b > 0, a / b, 0.0)


def _blocks(values: Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK_VALUES // max(values.shape[1], 1))
    for start in range(0, len(values), step):
        yield slice(start, start + step)
