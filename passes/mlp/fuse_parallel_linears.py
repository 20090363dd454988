"""fuse-parallel-linears: linears that do not depend on each other become one product of matrices.

    linear(x, W1), linear(x, W2), ...   -> split(linear(x, [W1; W2; ...]))
    linear(x1, W1), linear(x2, W2), ... -> unbind(baddbmm(b, [x1, x2, ...], [W1', W2', ...]))     equal shapes, small weights

The first form applies to the experts and gates of an MMoE, the queries, keys and values of an attention, and the first layers of parallel
towers; the second to the next layers of the experts. Equal activations behind the linears are applied to the wide result. Columns are
ordered so that equal activations are adjacent.

Requires: functional. Exactness: REASSOC (a product of another width may sum in another order).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._linear import Linear, match_linear
from recfx.passes._match import argument, value
from recfx.passes._properties import CANONICAL
from recfx.passes._strides import relax_views
from recfx.passes.mlp.epilogue import Chain, activations_after, gather_before_last, stacked_by
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
@dataclass(frozen=True)
class FuseParallelLinears(Pass):
    """Replaces parallel linears by one product.

    Attributes:
        at_least: The smallest number of linears over one input to join.
        at_least_batched: The smallest number of linears to batch if their inputs must be copied together. Two are enough if the inputs
            are parts of one tensor.
        max_weight: The most weights of a linear to batch. Single products of larger ones use the processor fully.
    """

    spec = PassSpec(
        "fuse-parallel-linears",
        "Replaces linears that do not depend on each other by one product.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-fused"}),
        forbids=frozenset({"linears-quantised"}),
        establishes=frozenset({"linears-joined"}),
    )

    at_least: int = 2
    at_least_batched: int = 3
    max_weight: int = 1 << 16

    def run(self, program: Program, ctx: PassContext) -> None:
        groups: dict[tuple[Any, torch.dtype], list[Linear]] = {}
        for node in ctx.nodes(_aten.linear.default):
            linear = match_linear(ctx, node)
            if not isinstance(linear, Miss):
                groups.setdefault((node.args[0], linear.weight.dtype), []).append(linear)
            elif len(list(argument_of(node, 0, fx.Node).users)) > 1:
                ctx.miss("same-input", node, linear.reason)
        for members in groups.values():
            self._concatenate(ctx, members)
        ctx.sweep()
        tried: set[fx.Node] = set()
        while (found := self._next_batch(ctx, tried)) is not None:
            tried.update(member.node for member in found)
            self._batch(ctx, found)
            ctx.sweep()

    def _concatenate(self, ctx: PassContext, members: list[Linear]) -> None:
        first = members[0].node
        if len(members) < self.at_least:
            return None if len(members) == 1 else ctx.miss("same-input", first, f"only {len(members)} read this input")
        if not ctx.gate("same-input", first):
            return None
        blocks: dict[Any, list[tuple[Linear, Chain]]] = {}
        for member in members:
            chain = activations_after(member.node)
            blocks.setdefault(chain.steps, []).append((member, chain))
        ordered = [member for block in blocks.values() for member, _ in block]
        source: Any = first.args[0]
        relax_views([chain.tail for block in blocks.values() for _, chain in block])
        with ctx.before(first):
            weight = ctx.constant(_stem(ordered, "weight"), torch.cat([m.weight for m in ordered]))
            bias = _read_bias(ctx, ordered, torch.cat)
            wide = ctx.call(_aten.linear.default, source, weight, *bias)
            sizes = [sum(len(m.weight) for m, _ in block) for block in blocks.values()]
            ends: list[tuple[tuple[Linear, Chain], fx.Node]] = []
            for block, part in zip(blocks.values(), _split(ctx, wide, sizes), strict=True):
                active = block[0][1].apply(ctx, part)
                ends += zip(block, _split(ctx, active, [len(m.weight) for m, _ in block]), strict=True)
        for (_, chain), new in ends:
            ctx.replace(chain.tail, new)
        return None

    def _next_batch(self, ctx: PassContext, tried: set[fx.Node]) -> list[Linear] | None:
        """The next linears of equal shape and equal depth in the graph, over different inputs; None if no group is left."""
        depth: dict[fx.Node, int] = {}
        groups: dict[Any, list[Linear]] = {}
        for node in ctx.graph.nodes:
            linear = node.target is _aten.linear.default
            depth[node] = max((depth[n] for n in node.all_input_nodes), default=0) + linear
            held = value(node.args[0]) if linear else None
            if held is None or held.ndim != 2 or node in tried:
                continue
            member = match_linear(ctx, node)
            if isinstance(member, Miss):
                continue
            key = (depth[node], member.weight.shape, member.weight.dtype, str(held.shape))
            groups.setdefault(key, []).append(member)
        return next((members for members in groups.values() if len(members) > 1), None)

    def _batch(self, ctx: PassContext, members: list[Linear]) -> None:
        nodes = [member.node for member in members]
        joined = _joined(nodes)
        if joined is None and len(members) < self.at_least_batched:
            return ctx.miss("equal-shape", nodes[0], f"only {len(members)}, and joining them copies their inputs")
        if members[0].weight.numel() > self.max_weight:
            return ctx.miss("equal-shape", nodes[0], f"each has {members[0].weight.numel():,} weights")
        if not ctx.gate("equal-shape", nodes[0]):
            return None
        chains = [activations_after(node) for node in nodes]
        alike = len({chain.steps for chain in chains}) == 1
        tails = [chain.tail for chain in chains] if alike else nodes
        stack = stacked_by(tails)
        relax_views([stack] if stack is not None else tails)
        with ctx.before(gather_before_last(ctx.graph, nodes)):
            inputs = joined(ctx) if joined is not None else ctx.call(_aten.stack.default, [n.args[0] for n in nodes])
            weight = ctx.constant(_stem(members, "weight"), torch.stack([m.weight.T for m in members]).contiguous())
            bias = _read_bias(ctx, members, lambda biases: torch.stack(biases)[:, None])
            target = _aten.baddbmm.default if bias else _aten.bmm.default
            wide = ctx.call(target, *bias, inputs, weight)
            wide = chains[0].apply(ctx, wide) if alike else wide
        if stack is not None:
            with ctx.before(stack):
                swapped = argument(stack, 1, "dim", 0) == 1
                ctx.replace(stack, ctx.call(_aten.permute.default, wide, [1, 0, 2]) if swapped else wide)
            return None
        with ctx.before(nodes[-1]):
            unbound = ctx.call(_aten.unbind.int, wide)
            parts = [ctx.call(operator.getitem, unbound, i) for i in range(len(tails))]
        ctx.replace_many(tails, parts)
        return None


def _joined(nodes: Sequence[fx.Node]) -> Any:
    """A function that gives the inputs as one tensor [E, B, K] without a copy, if they are its parts in order; otherwise None."""
    inputs: list[Any] = [node.args[0] for node in nodes]
    if any(x.target is not operator.getitem for x in inputs) or [x.args[1] for x in inputs] != list(range(len(inputs))):
        return None
    whole = inputs[0].args[0]
    if any(x.args[0] is not whole for x in inputs) or len(whole.meta["val"]) != len(inputs):
        return None
    if whole.target is _aten.unbind.int and argument(whole, 1, "dim", 0) == 0:
        return lambda ctx: whole.args[0]
    if whole.target is _aten.split_with_sizes.default and argument(whole, 2, "dim", 0) in (-1, 1):
        sizes = [-1, len(inputs), whole.args[1][0]]
        return lambda ctx: ctx.call(
            _aten.permute.default, ctx.call(_aten.reshape.default, whole.args[0], sizes), [1, 0, 2]
        )
    return None


def _split(ctx: PassContext, node: fx.Node, sizes: list[int]) -> list[fx.Node]:
    if len(sizes) == 1:
        return [node]
    parts = ctx.call(_aten.split_with_sizes.default, node, sizes, -1)
    return [ctx.call(operator.getitem, parts, i) for i in range(len(sizes))]


def _read_bias(ctx: PassContext, members: Sequence[Linear], join: Any) -> list[fx.Node]:
    """A read of all joined biases, with zeros for a linear without bias; an empty list if no linear has one."""
    if all(member.bias is None for member in members):
        return []
    biases = [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in members]
    return [ctx.constant(_stem(members, "bias"), join(biases))]


def _stem(members: Sequence[Linear], kind: str) -> str:
    name = str(argument_of(members[0].node, 1, fx.Node).target)
    return f"{name.removesuffix('weight')}{kind}_of_{len(members)}"
