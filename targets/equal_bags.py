"""Bags of equal lengths: `embedding_bag` with offsets 0, L, 2 L, ..., which is a gather and a sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.targets.region_sizes import expression_of

_aten = torch.ops.aten

#: Modes of `embedding_bag`.
SUM_OF_BAG, MEAN_OF_BAG = 0, 1
#: Arguments of `embedding_bag` by position.
_OFFSETS, _MODE, _LAST = 2, 4, 7


def refusal_of_bag(node: fx.Node) -> str:
    """Why an `embedding_bag` cannot be gathered and reduced; "" if it can."""
    if any(getattr(user.target, "__name__", "") != "getitem" or user.args[1] != 0 for user in node.users):
        return "results of a bag other than its sums"
    if _argument(node, _MODE, 0) not in (SUM_OF_BAG, MEAN_OF_BAG):
        return "the largest element of a bag runs on torch"
    if bag_length(node) is None:
        return "bags of different lengths run on torch"
    return ""


def bag_length(node: fx.Node) -> int | None:
    """The length of all bags if the offsets are 0, L, 2 L, ... up to the number of ids; None otherwise."""
    offsets: Any = node.args[_OFFSETS]
    if offsets.target is not _aten.arange.start_step or _argument(node, _LAST, False):
        return None
    start, end, step = (*offsets.args, 1)[:3]
    ids: Any = node.args[1]
    held = ids.meta["val"]
    last = end.meta["val"] if isinstance(end, fx.Node) else end
    whole = start == 0 and isinstance(step, int) and step > 0
    return step if whole and held.ndim == 1 and expression_of(last) == expression_of(held.shape[0]) else None


def _argument(node: fx.Node, at: int, default: Any) -> Any:
    return node.args[at] if len(node.args) > at else default
