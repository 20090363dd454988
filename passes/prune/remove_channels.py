"""Removes channels from a program: elements of parameters and buffers, and the sizes that operators hold."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from recfx.analysis.channel_axes import Axis
from recfx.analysis.channel_groups import ChannelGroups
from recfx.ir.program import get_state
from recfx.ir.propagate import refresh
from recfx.passes.prune.baked_sizes import Remaining, rewrite_sizes
from recfx.pipeline import PassContext


def remove_channels(ctx: PassContext, found: ChannelGroups, removed: Collection[int]) -> None:
    """Removes channels. The caller has asked the gate.

    Args:
        ctx: The pass context.
        found: The coupled channels of the program as it is now.
        removed: Labels of channels. No axis may lose all its places.
    """
    remaining = Remaining(found, removed)
    for node in ctx.nodes():
        if any(remaining.changes(axis) for axis in _touched(node, found)):
            rewrite_sizes(ctx, node, remaining)
    _cut_state(ctx, remaining)
    refresh(ctx.program.module, ctx.nodes())
    ctx.sweep()


def _touched(node: fx.Node, found: ChannelGroups) -> list[Axis]:
    """The axes of an operator's operands and results."""
    operands = [axis for operand in node.all_input_nodes for axes in found.result_axes(operand) for axis in axes]
    return operands + [axis for axes in found.result_axes(node) for axis in axes]


def _cut_state(ctx: PassContext, remaining: Remaining) -> None:
    """Cuts tensors that lose elements. They keep their names; a tensor with several names stays one tensor."""
    reads: dict[str, list[fx.Node]] = {}
    for node in ctx.graph.find_nodes(op="get_attr"):
        if any(map(remaining.changes, remaining.found.axes(node))):
            reads.setdefault(str(node.target), []).append(node)
    made: dict[int, torch.Tensor] = {}
    for name, nodes in reads.items():
        tensor = get_state(ctx.program.module, name)
        if id(tensor) not in made:
            smaller = cut(tensor, remaining.found.axes(nodes[0]), remaining)
            kept = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(smaller, tensor.requires_grad) if kept else smaller
        ctx.store(nodes, made[id(tensor)])


def cut(tensor: torch.Tensor, axes: list[Axis], remaining: Remaining) -> torch.Tensor:
    """The remaining elements of a tensor, as a tensor of its own."""
    found = tensor.detach()
    for d, axis in enumerate(axes):
        mask = remaining.found.kept_along(axis, remaining.removed, tensor.shape[d])
        if mask is not None:
            found = found.index_select(d, torch.from_numpy(mask).nonzero().flatten().to(tensor.device))
    return found.clone(memory_format=torch.contiguous_format)
