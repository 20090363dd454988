"""The place of a tensor in the concatenation that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.targets.native.values import Dim


def columns_of(shape_of: Callable[[fx.Node], Sequence[Dim]], user: fx.Node) -> dict[fx.Node, tuple[int, int]]:
    """The nodes that have exactly one place in a concatenation or in a lookup's output: node -> dimension and first index."""
    if user.target is torch.ops.recfx.grouped_lookup.default:
        dense: Any = user.args[4]
        copies: Any = user.args[6]
        placed = [(dense[source], (1, column)) for source, column in zip(copies[::2], copies[1::2], strict=True)]
        return _once([(node, place) for node, place in placed if shape_of(node)[0].size == 1])
    if user.target is not torch.ops.aten.cat.default:
        return {}
    parts: Any = user.args[0]
    given: Any = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
    shape = shape_of(user)
    dim = given % len(shape)
    if shape[dim].batch or any(p.meta["val"].dtype is not torch.float32 for p in parts):
        return {}
    placed, start = [], 0
    for part in parts:
        placed.append((part, (dim, start)))
        start += shape_of(part)[dim].size
    return _once(placed)


def _once(placed: Sequence[tuple[fx.Node, tuple[int, int]]]) -> dict[fx.Node, tuple[int, int]]:
    """The nodes that occur once, with their places."""
    counts = Counter(node for node, _ in placed)
    return {node: place for node, place in placed if counts[node] == 1}
