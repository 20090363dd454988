"""Checks of offsets for decompositions: they can be traced, since they read no values.

torch's embedding operators check ids, but only the first of the offsets. Offsets that fall or point outside their ids are replaced by
numbers that these operators refuse, so that the error is raised where the bags are read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def refused_unless(valid: Tensor, offsets: Tensor) -> Tensor:
    """The offsets if `valid`, a bool scalar, is True; otherwise numbers beyond every id, which embedding operators refuse."""
    return torch.where(valid, offsets, torch.iinfo(offsets.dtype).max)


def bag_bounds(offsets: Tensor, count: Any) -> tuple[Tensor, Tensor]:
    """The starts of bags between 0 and the number of ids.

    Args:
        offsets: int64 [n].
        count: The number of ids; may be symbolic.

    Returns:
        0, the offsets and `count`, int64 [n + 2]; and whether the offsets start at 0, do not fall and do not exceed `count`.
    """
    bounds = torch.cat([offsets.new_zeros(1), offsets, offsets.new_full((1,), count)])
    return bounds, (bounds[1:] >= bounds[:-1]).all() & (offsets[:1] == 0).all()


def bag_numbers(ends: Tensor, count: Any) -> Tensor:
    """The bag that each id belongs to, int64 [count].

    Args:
        ends: int64 [bags], rising, the last at least `count`: the position behind each bag.
        count: The number of ids.
    """
    ended = torch.zeros(count + 1, dtype=torch.int64, device=ends.device).index_add(0, ends, torch.ones_like(ends))
    return ended.cumsum(0)[:-1]
