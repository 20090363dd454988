"""The spellings of activations in graphs: single operators, x * sigmoid(x), and Dice with its batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.passes._match import argument
from recfx.passes.mlp.dice import match_dice
from recfx.passes.mlp.parameters import Activation, flat
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten


_PLAIN = {
    _aten.relu.default: "relu",
    _aten.silu.default: "silu",
    _aten.sigmoid.default: "sigmoid",
    _aten.tanh.default: "tanh",
}


def match_activation(ctx: PassContext, x: fx.Node) -> Activation | Miss:
    """The activation applied to a value, or why an MLP layer cannot have it."""
    if len(x.users) == 1:
        user = next(iter(x.users))
        found = _single(ctx, x, user)
        if found is not None:
            return found
    dice = match_dice(ctx, x)  # before SiLU: a Dice whose gate is sigmoid(x) contains x * sigmoid(x)
    gated = _self_gated(x) if isinstance(dice, Miss) else None
    return dice if gated is None else gated


def _single(ctx: PassContext, x: fx.Node, node: fx.Node) -> Activation | Miss | None:
    """The activation at the only user of x; a Miss if an MLP layer cannot have it, None if it is another operator."""
    if not node.args or node.args[0] is not x:
        return None
    nodes = frozenset({node})
    if node.target in _PLAIN:
        return Activation(node, nodes, _PLAIN[node.target])
    if node.target is _aten.gelu.default:
        tanh = node.kwargs.get("approximate", "none") == "tanh"
        return Activation(node, nodes, "gelu-tanh" if tanh else "gelu")
    if node.target is _aten.leaky_relu.default:
        return Activation(node, nodes, "leaky-relu", number=float(argument(node, 1, "negative_slope", 0.01)))
    if node.target in (_aten.clamp.default, _aten.clamp_min.default):
        if argument(node, 1, "min") == 0 and argument(node, 2, "max") is None:
            return Activation(node, nodes, "relu")
        return Miss("it clamps to another range than a ReLU", node)
    if node.target in (_aten.prelu.default, _aten._prelu_kernel.default):
        return _prelu(ctx, x, node)
    return None


def _prelu(ctx: PassContext, x: fx.Node, node: fx.Node) -> Activation | Miss:
    slope, held = ctx.tensor(node.args[1]), tensor_of(x)
    if slope is None:
        return Miss("PReLU's slope is computed", node)
    if slope.numel() != 1 and held.ndim != 2:
        return Miss("PReLU's slopes lie along the second dimension, not the last", node)
    read: Any = node.args[1]
    return Activation(node, frozenset({node}), "prelu", slope=flat(ctx, read))


def _self_gated(x: fx.Node) -> Activation | None:
    """x * sigmoid(x)."""
    for user in x.users:
        if user.target is not _aten.mul.Tensor:
            continue
        other = user.args[1] if user.args[0] is x else user.args[0]
        if isinstance(other, fx.Node) and other.target is _aten.sigmoid.default and other.args[0] is x:
            return Activation(user, frozenset({user, other}), "silu")
    return None
