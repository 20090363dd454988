"""The place of a tensor in the concatenation that reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.targets.native.values import Dim


def columns_in(shape_of: Callable[[fx.Node], Sequence[Dim]], node: fx.Node, user: fx.Node) -> tuple[int, int] | None:
    """Dimension and first index of a node's place in a concatenation or in a lookup's output; None unless it has exactly one place."""
    if user.target is torch.ops.recfx.grouped_lookup.default:
        dense: Any = user.args[4]
        copies: Any = user.args[6]
        columns = [c for source, c in zip(copies[::2], copies[1::2], strict=True) if dense[source] is node]
        return (1, columns[0]) if len(columns) == 1 and shape_of(node)[0].size == 1 else None
    if user.target is not torch.ops.aten.cat.default:
        return None
    parts: Any = user.args[0]
    given: Any = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
    shape = shape_of(user)
    dim = given % len(shape)
    if shape[dim].batch or parts.count(node) != 1 or any(p.meta["val"].dtype is not torch.float32 for p in parts):
        return None
    return dim, sum(shape_of(p)[dim].size for p in parts[: parts.index(node)])
