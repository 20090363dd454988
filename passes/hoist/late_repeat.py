"""Last part of hoist-requests, for one request: operators that broadcast instead of reading a repeated operand.

bmm(a, repeat(b))   -> a @ b            one product of a taller matrix
op(repeat(x), y)    -> op(x, y)         operators that broadcast
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.op_sets import MASKED_FILLS
from recfx.ir.program import Origin
from recfx.passes._match import value
from recfx.passes.hoist.request_forms import Shared

_aten = torch.ops.aten


def multiply_by_shared(shared: Shared) -> None:
    """Turns batched products whose second operand is the request's into products with one matrix for all candidates."""
    ctx = shared.ctx
    if shared.many:
        return
    for node in ctx.nodes(_aten.bmm.default):
        once = shared.once(node.args[1])
        if once is None or once.meta["val"].shape[0] != 1 or not ctx.gate("shared-matrix", node):
            continue
        with ctx.before(node):
            matrix = ctx.call(_aten.select.int, once, 0, 0)
            ctx.replace(node, ctx.call(_aten.matmul.default, node.args[0], matrix))


def broadcast(shared: Shared) -> None:
    """Lets elementwise operators read the request's row, which they broadcast."""
    ctx = shared.ctx
    if shared.many:
        return
    for node in ctx.nodes():
        if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.pointwise not in node.target.tags:
            continue
        repeated = [a for a in node.args if isinstance(a, fx.Node) and shared.once(a) is not None]
        if not repeated or not _shaped_by_others(node, repeated, shared):
            continue
        if node.target in MASKED_FILLS and node.args[0] in repeated:
            continue
        if ctx.gate("broadcast", node):
            for wide in set(repeated):
                node.replace_input_with(wide, shared.once_of(wide))


def _shaped_by_others(node: fx.Node, repeated: list[Any], shared: Shared) -> bool:
    """Whether another operand has the rows of the candidates, along the same axis."""
    held, batch = value(node), shared.found.batch
    if held is None or batch is None:
        return False
    for other in node.args:
        own = value(other)
        if own is None or not isinstance(other, fx.Node) or other in repeated:
            continue
        known = shared.found[other]
        if known.origin is Origin.CANDIDATE and known.rows is not None and own.ndim == held.ndim:
            return all(tensor_of(w).ndim == held.ndim and shared.found[w].rows == known.rows for w in repeated)
    return False
