"""Removal of operators with unused results."""

from __future__ import annotations

from collections.abc import Iterable

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
        if _is_dead(node):
            graph.erase_node(node)
            count += 1
    return count


def remove_unread(graph: fx.Graph, nodes: Iterable[fx.Node]) -> int:
    """Erases those of some nodes that no node reads and that have no effect, and then what only they read; returns how many."""
    waiting, count = list(nodes), 0
    while waiting:
        node = waiting.pop()
        if not node._erased and _is_dead(node):
            waiting += node.all_input_nodes
            graph.erase_node(node)
            count += 1
    return count


def _is_dead(node: fx.Node) -> bool:
    return not (node.op in ("placeholder", "output") or node.users or node.target in EFFECTS or is_inplace(node))
