"""Control flow that a model writes with operators on sub-graphs: `torch.cond` becomes both branches and a choice, others are refused.

Both branches of a condition are computed. That gives the same as one of them only if no operator of a branch can fail: a lookup would also
check the ids that the other branch is for. So branches with lookups, divisions of integers or other such operators are refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.capture.inline import copy_region
from recfx.errors import CaptureError
from recfx.ir.op_sets import ADDED_PRODUCTS, ALIASES, CASTS, COPIES, JOINS, MATRIX_PRODUCTS, POOLINGS
from recfx.ir.provenance import where

_aten = torch.ops.aten
_COND = torch.ops.higher_order.cond

#: Operators that cannot fail, whatever the values of their operands, beside element-wise operators.
_CANNOT_FAIL = frozenset(
    (
        *(*ALIASES, *ADDED_PRODUCTS, *CASTS, *COPIES, *JOINS, *MATRIX_PRODUCTS, *POOLINGS),
        *(_aten.linear.default, _aten.layer_norm.default, _aten.softmax.int, _aten.log_softmax.int),
        *(_aten.sum.default, _aten.mean.default, _aten.amax.default, _aten.amin.default, _aten.sym_size.int),
    )
)

#: Name of an operator on sub-graphs -> what to write instead.
_MENDS = {
    "cond": "compute both sides and choose with torch.where",
    "while_loop": "write a Python loop with a fixed number of steps, and keep finished rows with torch.where",
    "scan": "write a Python loop over the steps, whose number must be fixed",
    "map_impl": "write operators over the whole batch, such as torch.bmm, or use torch.vmap",
    "associative_scan": "use torch.cumsum or torch.cumprod, or write a Python loop over the steps",
    "flex_attention": "use torch.nn.functional.scaled_dot_product_attention with a mask",
}


def inline_conditions(module: fx.GraphModule) -> int:
    """Replaces every `torch.cond` by its branches and `torch.where`, including nested ones, in place; returns their number.

    Raises:
        CaptureError: An operator of a branch may fail, a condition is about sizes, or there is another operator on sub-graphs.
    """
    count = 0
    while (node := next((n for n in module.graph.nodes if n.target is _COND), None)) is not None:
        _inline(module, node)
        count += 1
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise _refusal(node, f"the model calls {node.target}, an operator on parts of the model")
    if count:
        module.graph.lint()
        module.recompile()
    return count


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    arguments: Any = node.args
    condition, *branches, operands = arguments
    if not isinstance(condition, fx.Node) or not isinstance(condition.meta.get("val"), torch.Tensor):
        raise _refusal(
            node, "a condition of torch.cond is about sizes", "decide it in Python, as in `if x.shape[0] > 1`"
        )
    with module.graph.inserting_before(node):
        if condition.meta["val"].ndim:  # one element, whose dimensions the results do not take
            held = condition.meta["val"]
            condition = module.graph.call_function(_aten.reshape.default, (condition, []))
            condition.meta = {**node.meta, "val": held.reshape([])}
        results = [_branch(module, node, branch, operands) for branch in branches]
        chosen = [_choice(module.graph, node, condition, pair) for pair in zip(*results, strict=True)]
    for user in list(node.users):
        user.replace_all_uses_with(chosen[_place(user)])  # the results are read with getitem
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    for branch in dict.fromkeys(branches):
        if not branch.users:
            module.graph.erase_node(branch)
            if not any(other.target == branch.target for other in module.graph.find_nodes(op="get_attr")):
                delattr(module, branch.target)


def _place(user: fx.Node) -> int:
    place = user.args[1]
    assert isinstance(place, int)
    return place


def _branch(module: fx.GraphModule, node: fx.Node, branch: Any, operands: Any) -> Any:
    """Copies a branch in front of a condition, and returns its results."""
    region = getattr(module, branch.target)
    for inner in region.graph.nodes:
        if inner.op == "call_function" and not _cannot_fail(inner):
            raise _refusal(
                node, f"a branch of torch.cond calls {inner.target}, which may fail for values that take the other one"
            )
    values = dict(zip(region.graph.find_nodes(op="placeholder"), operands, strict=True))
    return copy_region(module, region, values)


def _choice(graph: fx.Graph, node: fx.Node, condition: fx.Node, pair: tuple[Any, Any]) -> Any:
    first, second = pair
    if first is second:
        return first
    if not all(isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor) for value in pair):
        raise _refusal(node, "branches of torch.cond return other values than tensors")
    chosen = graph.call_function(_aten.where.self, (condition, first, second))
    chosen.meta = {**node.meta, "val": first.meta["val"]}
    return chosen


def _cannot_fail(node: fx.Node) -> bool:
    """Whether an operator has a result for all values of its operands, which is the same in each run."""
    if node.target is _COND:
        return True  # its own branches are judged when it is inlined
    if node.target in _CANNOT_FAIL:
        return True
    value = node.meta.get("val")
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.pointwise in node.target.tags
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and isinstance(value, torch.Tensor)
        and (value.is_floating_point() or value.dtype is torch.bool)
    )


def _refusal(node: fx.Node, what: str, mend: str | None = None) -> CaptureError:
    name = getattr(node.target, "_name", "")
    mend = mend or _MENDS.get(name, "write it with operators on tensors")
    return CaptureError(
        what,
        where=where(node),
        hint=f"{mend}; a part of the model can be optimized separately: recfx.optimize(model.submodule, ...)",
    )
