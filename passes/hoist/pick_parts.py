"""First step of hoist-requests: columns that are concatenated and then picked again are read from their source.

    select(cat([a, b], 1), 1, i)   -> select(a, 1, i) or select(b, 1, i - columns of a)
    slice(cat([a, b], 1), 1, i, j) -> slice(a, ...) or slice(b, ...)        when the slice lies in one of them

Without it, ids of the user and of the item in one matrix would all count as the candidate's. Selections of columns by a constant index
between the concatenation and the pick are followed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.passes._match import argument, value
from recfx.passes.hoist.request_forms import Shared

_aten = torch.ops.aten
_END = 2**62


def pick_parts(shared: Shared) -> None:
    """Reads picked columns from the parts of a concatenation, if a part belongs to the request."""
    ctx = shared.ctx
    for node in ctx.nodes(_aten.select.int, _aten.slice.Tensor):
        source, held = node.args[0], value(node.args[0])
        columns = _columns(node, held) if held is not None else None
        if columns is None or held is None:
            continue
        found = _trace(shared, source, columns)
        if found is None or found[0] is source or not ctx.gate("pick-parts", node):
            continue
        part, start = found
        with ctx.before(node):
            if node.target is _aten.select.int:
                new = ctx.call(_aten.select.int, part, 1, start)
            else:
                new = ctx.call(_aten.slice.Tensor, part, 1, start, start + len(columns))
        node.replace_all_uses_with(new)  # only strides differ; `run_once` recomputes all fake values


def _columns(node: fx.Node, held: torch.Tensor) -> list[int] | None:
    """The columns of a matrix [B, C] that a selection reads."""
    if held.ndim < 2 or not isinstance(held.shape[1], int) or argument(node, 1, "dim", 0) not in (1, 1 - held.ndim):
        return None
    size = held.shape[1]
    if node.target is _aten.select.int:
        index: Any = node.args[2]
        return [index % size] if isinstance(index, int) else None
    start, end, step = argument(node, 2, "start"), argument(node, 3, "end"), argument(node, 4, "step", 1)
    if not all(isinstance(i, int | None) for i in (start, end)) or step != 1:
        return None
    return list(range(size))[slice(start, None if end is None or end > _END else end)]


def _trace(shared: Shared, node: Any, columns: list[int]) -> tuple[fx.Node, int] | None:
    """The source of consecutive columns and their first column in it; None if they have several sources."""
    passed_request = False
    while True:
        if node.target is _aten.cat.default and argument(node, 1, "dim", 0) in (1, 1 - node.meta["val"].ndim):
            passed_request = passed_request or any(shared.is_repeated(n) for n in node.args[0])
            start = 0
            for part in node.args[0]:
                width = part.meta["val"].shape[1]
                if all(start <= c < start + width for c in columns):
                    node, columns = part, [c - start for c in columns]
                    break
                start += width
            else:
                return None
            continue
        order = _order(shared, node)
        if order is None:
            break
        node, columns = node.args[0], [order[c] for c in columns]
    consecutive = columns == list(range(columns[0], columns[0] + len(columns))) if columns else False
    return (node, columns[0]) if consecutive and passed_request else None


def _order(shared: Shared, node: fx.Node) -> list[int] | None:
    """The columns that a selection by a constant index reads."""
    picked: Any = None
    if node.target is _aten.index_select.default and node.args[1] == 1:
        picked = node.args[2]
    elif node.target is _aten.index.Tensor:
        indices = items_of(node, 1)
        picked = indices[1] if len(indices) == 2 and indices[0] is None else None
    order = shared.ctx.tensor(picked)
    if order is None or order.ndim != 1 or order.dtype is torch.bool:
        return None
    size = tensor_of(node.args[0]).shape[1]
    return [int(i) % size for i in order]
