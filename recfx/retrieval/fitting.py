"""Grids for embeddings: by their extremes, or with levels symmetric about zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recfx.formats.symmetric import lost_across, symmetric_steps
from recfx.progress import progress
from recfx.retrieval.grid import Grid, Kind, symmetric

_SAMPLED = 4096
_BLOCK_VALUES = 1 << 22


class Fit(NamedTuple):
    """How embeddings are rounded.

    Attributes:
        grid: The grid of the codes' values.
        rounding: The grid whose nearest values give the codes; the same for most kinds.
    """

    grid: Grid
    rounding: Grid


def fit(values: Tensor, bits: int, kind: Kind) -> Fit:
    """The grid of float32 values [n, d].

    At 1 bit the two values are -s and s, where s is the mean magnitude, the scale of least squared error for signs.
    With more bits, the grid extends from the smallest value to the largest, or its levels are symmetric about zero, see
    `recfx.formats.symmetric`.
    """
    if bits == 1 and kind in ("row", "symmetric"):
        return _same(symmetric(2 * values.abs().mean(1), 1))
    if kind == "symmetric":
        return _symmetric(values, bits)
    axis = {"table": (0, 1), "row": (1,), "dimension": (0,)}[kind]
    if not values.numel():
        shape = {"table": (), "row": (len(values),), "dimension": (values.shape[1],)}[kind]
        return _same(Grid(torch.zeros(shape, dtype=torch.float32), torch.zeros(shape, dtype=torch.float32), kind))
    if bits == 1:
        scale = values.abs().mean(axis)
        return _same(Grid(-scale, 2 * scale, kind))
    lower = values.amin(axis)
    return _same(Grid(lower, (values.amax(axis) - lower) / ((1 << bits) - 1), kind))


def better_rows(values: Tensor, bits: int) -> Kind:
    """Returns the kind, `symmetric` or `row`, with the smaller error on a sample of embeddings [n, d]; `row` if both
    errors are equal."""
    some = values
    if len(values) > _SAMPLED:
        some = values[torch.randint(0, len(values), (_SAMPLED,), generator=torch.Generator().manual_seed(0))]
    lost = {}
    for kind in ("symmetric", "row"):
        grid, rounding = fit(some, bits, kind)
        lost[kind] = lost_across(some, grid.decode(rounding.encode(some, bits)))
    return "symmetric" if lost["symmetric"] < lost["row"] else "row"


def _same(grid: Grid) -> Fit:
    return Fit(grid, grid)


def _symmetric(values: Tensor, bits: int) -> Fit:
    near, steps = torch.empty(len(values), dtype=torch.float32), torch.empty(len(values), dtype=torch.float32)
    block = max(1, _BLOCK_VALUES // values.shape[1])
    with progress(f"fitting {len(values):,} rows", len(values)) as advance:
        for start in range(0, len(values), block):
            rows = slice(start, start + block)
            near[rows], steps[rows] = symmetric_steps(values[rows], bits)
            advance(len(values[rows]))
    return Fit(symmetric(steps, bits), symmetric(near, bits))
