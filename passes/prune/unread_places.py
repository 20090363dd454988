"""Places along the last axis of a value that nothing reads, because all its users take parts of it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from recfx.analysis.channel_views import slice_bounds
from recfx.ir.op_sets import SLICES, SPLITS
from recfx.passes._match import argument, value

_aten = torch.ops.aten


def has_unread_places(graph: fx.Graph) -> bool:
    """Whether some value has places along its last axis that no operator takes."""
    sources = {node.args[0] for node in graph.nodes if node.target in SLICES or node.target is _aten.select.int}
    if any(isinstance(source, fx.Node) and _partly_read(source) for source in sources):
        return True
    return any(_has_unread_part(node) for node in graph.nodes if node.target in SPLITS)


def _partly_read(source: fx.Node) -> bool:
    """Whether all users of a value take places of its last axis, and leave out some."""
    held = value(source)
    if held is None or not held.ndim or not isinstance(held.shape[-1], int):
        return False
    read = set[int]()
    for user in source.users:
        taken = _taken(user, source, held.ndim, held.shape[-1])
        if taken is None:
            return False
        read.update(taken)
    return len(read) < held.shape[-1]


def _taken(user: fx.Node, source: fx.Node, ndim: int, size: int) -> range | None:
    """The places of the last axis that a user takes; None if it may read all."""
    chosen = user.target is _aten.select.int
    if not (chosen or user.target in SLICES) or user.args[0] is not source:
        return None
    if argument(user, 1, "dim", 0) % ndim != ndim - 1:
        return None
    if not chosen:
        bounds = slice_bounds(user)
        return None if bounds is None else range(*bounds)
    place: Any = argument(user, 2, "index")
    return range(place % size, place % size + 1) if isinstance(place, int) else None


def _has_unread_part(split: fx.Node) -> bool:
    """Whether some part of a split along the last axis has no users."""
    held, place = value(split.args[0]), argument(split, 2, "dim", 0)
    if held is None or not isinstance(place, int) or place % held.ndim != held.ndim - 1:
        return False
    parts = [user for user in split.users if user.target is operator.getitem and user.users]
    return len({user.args[1] for user in parts}) < len(split.meta["val"])
