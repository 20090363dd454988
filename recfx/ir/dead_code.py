"""Removal of operators with unused results."""

from __future__ import annotations

import torch
from torch import fx

from recfx.ir.functional_ops import is_inplace

_aten = torch.ops.aten

#: Operators that run for their effect (they may raise): they stay even when their results are unused.
EFFECTS = {
    _aten._assert_async.msg,
    _aten._assert_async.default,
    _aten._assert_scalar.default,
    _aten.sym_constrain_range.default,
    _aten.sym_constrain_range_for_size.default,
    torch._check,
    torch._check_is_size,
}


def remove_dead_code(graph: fx.Graph) -> int:
    """Erases, last first, every unused operator and attribute read without an effect; returns how many.

    torch's own elimination keeps dropout and other random operators, which have no effect in a functional inference graph.
    """
    count = 0
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output") or node.users or node.target in EFFECTS or is_inplace(node):
            continue
        graph.erase_node(node)
        count += 1
    return count
