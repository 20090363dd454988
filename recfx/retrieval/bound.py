"""How far a first-stage score may be from the exact one; see `recfx.retrieval.two_stage` for the formula."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recfx.retrieval.index import Index
from recfx.retrieval.rounding import round_rows

_ROUNDING = 1e-5  # error of float32 sums, relative to the lengths of query and item
_BLOCK_VALUES = 1 << 22


class Reach(NamedTuple):
    """The items of a first stage, as far as the bound depends on them.

    Attributes:
        error: The largest distance of an item from the value of its codes.
        longest: The greatest length of such a value.
    """

    error: float
    longest: float

    def widened(self, other: Reach) -> Reach:
        """The reach of the items of both."""
        return Reach(max(self.error, other.error), max(self.longest, other.longest))


def reach(first: Index, ids: Tensor, rows: Tensor) -> Reach:
    """The reach of some items of a first stage.

    Args:
        first: The first stage.
        ids: Positions of the items, int64 [n].
        rows: What they are, float32 [n, d].
    """
    found = Reach(0.0, 0.0)
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        stands_for = first.decode(ids[start : start + step])
        away = (rows[start : start + step] - stands_for).norm(dim=1)
        found = found.widened(Reach(float(away.max()), float(stands_for.norm(dim=1).max())))
    return found


def slack(first: Index, items: Reach, values: Tensor) -> Tensor:
    """The bound of the difference between an exact score and a first-stage score, float32 [Q].

    Args:
        first: The first stage.
        items: Its reach.
        values: Queries, float32 [Q, d].
    """
    near: Tensor = values.norm(dim=1) * (items.error + _ROUNDING * items.longest)
    if first.query_bits == 1:
        magnitude = values.abs().mean(1, keepdim=True)
        stands_for = torch.where(values > 0, magnitude, -magnitude)
    elif first.scales == "dimension":
        steps = first._store.grid.step
        numbers, unit = round_rows(values * steps)
        levels = (1 << first.bits) - 1
        away: Tensor = (values * steps - numbers * unit).norm(dim=1) * levels * first.dim**0.5
        total: Tensor = near + away
        return total
    else:
        numbers, unit = round_rows(values)
        stands_for = numbers * unit
    apart: Tensor = (values - stands_for).norm(dim=1)
    return near + apart * items.longest
