"""The operators behind each of several parallel operators: chains of activations, and the stack that joins the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.passes._match import only_user
from recfx.pipeline import PassContext

_aten = torch.ops.aten

#: Element-wise operators that may follow a linear.
ACTIVATIONS = frozenset(
    {
        _aten.relu.default,
        _aten.gelu.default,
        _aten.silu.default,
        _aten.sigmoid.default,
        _aten.tanh.default,
        _aten.leaky_relu.default,
        _aten.elu.default,
        _aten.selu.default,
        _aten.mish.default,
        _aten.relu6.default,
        _aten.hardtanh.default,
        _aten.hardswish.default,
        _aten.softplus.default,
    }
)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A run of activations behind an operator; each is the only user of the one before.

    Attributes:
        steps: Operator, further arguments and keyword arguments of each, as comparable values.
        tail: The last operator of the run; the operator itself if no activation follows.
    """

    steps: tuple[tuple[Any, tuple[Any, ...], tuple[Any, ...]], ...]
    tail: fx.Node

    def apply(self, ctx: PassContext, node: fx.Node) -> fx.Node:
        """Inserts the activations over another node."""
        for target, args, kwargs in self.steps:
            node = ctx.call(target, node, *args, **dict(kwargs))
        return node


def activations_after(node: fx.Node) -> Chain:
    """The activations behind an operator, as long as each is the only user of the one before."""
    steps = []
    while (user := only_user(node)) is not None and user.target in ACTIVATIONS and user.all_input_nodes == [node]:
        steps.append((user.target, tuple(user.args[1:]), tuple(user.kwargs.items())))
        node = user
    return Chain(tuple(steps), node)


def stacked_by(parts: Sequence[fx.Node]) -> fx.Node | None:
    """The `stack` of exactly these parts in order, along dimension 0 or 1, that is their only user; or None."""
    users = {only_user(part) for part in parts}
    (stack,) = users if len(users) == 1 else (None,)
    if stack is None or stack.target is not _aten.stack.default or stack.args[0] != list(parts):
        return None
    dim = stack.args[1] if len(stack.args) > 1 else stack.kwargs.get("dim", 0)
    return stack if dim in (0, 1) else None


def gather_before_last(graph: fx.Graph, members: Sequence[fx.Node]) -> fx.Node:
    """Moves the users of independent operators behind the last of these, so that one operator there can replace them all.

    Args:
        graph: The graph.
        members: Operators that do not depend on each other, in graph order.

    Returns:
        The last of them. A node inserted before it comes after all inputs and before all users.
    """
    last, moved, depends = members[-1], [], set(members)
    node = members[0].next
    while node is not last:
        if node not in depends and any(source in depends for source in node.all_input_nodes):
            depends.add(node)
            moved.append(node)
        node = node.next
    place = last
    for node in moved:
        place.append(node)
        place = node
    return last
