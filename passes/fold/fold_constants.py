"""fold-constants: operators that depend on parameters, buffers and literals alone are computed once.

    op(state, literals) -> state

This covers aranges and index tables, masks of fixed size, casts of weights, and whole graph propagations such as LightGCN's, also where
sizes depend on the values of state.

Requires: functional. Exactness: EXACT.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.dead_code import EFFECTS
from recfx.ir.program import Program
from recfx.passes._match import is_random, value
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Computes constant parts of the graph once.

    Attributes:
        max_growth_bytes: The most bytes by which all results together may exceed the state that they replace.
    """

    spec = PassSpec("fold-constants", "Computes operators that depend on state alone once.", changes_state=True)

    max_growth_bytes: int = 1 << 20

    def run(self, program: Program, ctx: PassContext) -> None:
        constant = _constant_nodes(ctx)
        budget = self.max_growth_bytes
        for node in [n for n in ctx.nodes() if n in constant and _leaves_the_constant_part(n, constant)]:
            if _is_number(node):
                if ctx.gate("fold", node):
                    _fold_number(ctx, node)
                continue
            held = value(node)
            if held is None:
                continue
            if any(not isinstance(size, int) for size in held.shape):  # sizes depend on the values of state
                held = _evaluate(ctx, node, {})
            growth = held.numel() * held.element_size() - _freed_bytes(ctx, node, constant)
            if growth > budget:
                ctx.miss("fold", node, f"the result is {growth:,} bytes larger than the operands that it replaces")
            elif ctx.gate("fold", node):
                budget -= max(growth, 0)
                _fold(ctx, node)


def _constant_nodes(ctx: PassContext) -> set[fx.Node]:
    """Reads of state, and operators that read only these and literals and give the same result at every call."""
    found: set[fx.Node] = set()
    for node in ctx.graph.nodes:
        if node.op == "get_attr":
            found.add(node)
        elif node.op == "call_function" and not is_random(node) and _foldable(node):
            constant = all(source in found for source in node.all_input_nodes)
            found |= {node} if constant else set()
    return found


def _foldable(node: fx.Node) -> bool:
    """Whether the operator gives tensors (or parts of a list of them) or a number, and has no effect."""
    if node.target is operator.getitem or _is_number(node):
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    held = node.meta.get("val")
    return isinstance(held, torch.Tensor) or (
        isinstance(held, tuple | list) and all(isinstance(v, torch.Tensor) for v in held)
    )


def _is_number(node: fx.Node) -> bool:
    """Whether a node gives a size or another number."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float)


def _fold_number(ctx: PassContext, node: fx.Node) -> None:
    """Writes a number that depends on state alone into its users; erases checks of it that hold."""
    with torch.no_grad():
        number = _evaluate(ctx, node, {})
    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), lambda n: number if n is node else n)
        if user.target in EFFECTS and not user.all_input_nodes:
            assert callable(user.target)
            user.target(*user.args, **user.kwargs)
            ctx.graph.erase_node(user)


def _leaves_the_constant_part(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether an operator that is not constant reads the node."""
    return node.op == "call_function" and any(user not in constant for user in node.users)


def _freed_bytes(ctx: PassContext, node: fx.Node, constant: set[fx.Node]) -> int:
    """Bytes of the state that only this node needs."""
    needed, stack = {node}, [node]
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                stack.append(source)
    freed = 0
    for source in needed:
        tensor = ctx.tensor(source)
        if tensor is not None and all(user in needed for user in source.users):
            freed += tensor.numel() * tensor.element_size() if tensor.layout is torch.strided else 0
    return freed


def _fold(ctx: PassContext, node: fx.Node) -> None:
    with torch.no_grad():
        result = _evaluate(ctx, node, {})
    if result.layout is torch.strided:
        result = result.clone(memory_format=torch.preserve_format)
    with ctx.before(node):
        state = ctx.constant(f"folded.{node.name}", result)
    ctx.replace(node, state)


def _evaluate(ctx: PassContext, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """The real value of a constant node; its inputs are computed first."""
    pending = [node]
    while pending:
        top = pending[-1]
        missing = [n for n in top.all_input_nodes if n not in known]
        if missing:
            pending.extend(missing)
            continue
        pending.pop()
        if top.op == "get_attr":
            known[top] = ctx.tensor(top)
        else:
            args, kwargs = fx.map_arg((top.args, top.kwargs), known.__getitem__)
            assert callable(top.target)
            known[top] = top.target(*args, **kwargs)
    return known[node]
