"""In-place operators that change the shape of a tensor and none of its numbers, such as `unsqueeze_`, become views.

Views that the model took before keep their shapes. So only the later readers of the changed tensor read the new view.
"""

from __future__ import annotations

import torch
from torch import fx

from recfx.ir.functional_ops import functional_overload, is_inplace, written_argument

_NAMES = frozenset(f"aten::{name}" for name in ("squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"))


def replace_inplace_views(graph: fx.Graph) -> int:
    """Replaces the in-place views of a graph; returns their number."""
    if not any(map(_is_inplace_view, graph.nodes)):
        return 0
    tensors: dict[
        fx.Node, fx.Node
    ] = {}  # result of an in-place operator, or a view of this file -> the first node of the same tensor
    views: dict[fx.Node, fx.Node] = {}  # first node of a tensor -> the view with its current shape

    def current(node: fx.Node) -> fx.Node:
        return views.get(tensors.get(node, node), node)

    replaced = []
    for node in list(graph.nodes):
        node.args = fx.map_arg(node.args, current)
        node.kwargs = fx.map_arg(node.kwargs, current)
        if not is_inplace(node):
            continue
        target = written_argument(node)
        first = tensors[node] = tensors.get(target, target)
        if _is_inplace_view(node):
            with graph.inserting_before(node):
                view = graph.call_function(functional_overload(node), node.args, node.kwargs)
            view.meta = dict(node.meta)
            tensors[view], views[first] = first, view
            replaced.append(node)
    for node in reversed(replaced):
        graph.erase_node(node)
    return len(replaced)


def _is_inplace_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in _NAMES
