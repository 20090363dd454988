"""Sums of many terms, as models write them: a chain or a tree of additions of values of one shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.passes._match import only_user, same_shape, value

_aten = torch.ops.aten


def is_root(node: fx.Node) -> bool:
    """Whether an addition is not a term of a larger sum of the same shape."""
    above = only_user(node)
    return above is None or _added(above) is None or value(above) is None or not adds_whole(above, node)


def adds_whole(term: Any, total: fx.Node) -> bool:
    """Whether a term has the shape and dtype of the sum, so that it is not broadcast."""
    held, whole = value(term), value(total)
    return held is not None and whole is not None and held.dtype is whole.dtype and same_shape(held, whole)


def terms_of(node: fx.Node) -> list[tuple[Any, fx.Node]]:
    """The terms of a tree of additions, each with the addition that reads it, without zeros."""
    found: list[tuple[Any, fx.Node]] = []
    waiting: list[tuple[Any, fx.Node]] = [(operand, node) for operand in (_added(node) or [])]
    while waiting:
        term, user = waiting.pop()
        inner = _added(term) if adds_whole(term, node) and only_user(term) is user else None
        if inner is not None:
            waiting += [(operand, term) for operand in inner]
        elif isinstance(term, fx.Node) or term != 0:
            found.append((term, user))
    return found[::-1]


def _added(node: Any) -> list[Any] | None:
    """The operands of an addition; None for other nodes."""
    if not isinstance(node, fx.Node) or node.target is not _aten.add.Tensor or node.kwargs.get("alpha", 1) != 1:
        return None
    return list(node.args[:2])
