"""Factors of a layer's input go into the layer before it in its chain, where that is exact.

The layer before must end in an activation that commutes with positive factors, its result must have no other reader, and its affine
part (the scales of an int8 weight and the bias, or those of a layer norm) takes the factors. They are powers of two, so nothing is rounded.
Other factors are applied by the kernel, which multiplies while it quantises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ops import mlp
from recfx.passes.quantize.layer_kinds import KINDS, compact
from recfx.pipeline import PassContext

#: Activations with `activation(f y) = f activation(y)` for f > 0.
_HOMOGENEOUS = ("none", "relu", "leaky-relu", "prelu")


def fold_factors(ctx: PassContext, node: fx.Node) -> None:
    """Folds the factors of the layers of an MLP chain; other operators stay as they are."""
    if node.target is not mlp.mlp:
        return
    kind, arguments = KINDS[node.target], list(node.args)
    layers, params = kind.layers(arguments), list(items_of(node, kind.params))
    folded = False
    for position in range(1, len(layers)):
        before, layer = layers[position - 1], layers[position]
        if layer.factor >= 0 and _takes_factors(ctx, layers, position, params):
            factor = ctx.stored(params[layer.factor]).detach()
            fields = ("norm_weight", "norm_bias") if before.norm else ("scale", "bias")
            changes = {
                name: _multiplied(ctx, node, params, getattr(before, name), factor)
                for name in fields
                if getattr(before, name) >= 0
            }
            layers[position - 1] = dataclasses.replace(before, **changes)
            layers[position] = dataclasses.replace(layer, factor=-1)
            folded = True
    if folded:
        node.args = kind.with_layers(arguments, *compact(params, layers, kind.names))


def _takes_factors(ctx: PassContext, layers: Sequence[Any], position: int, params: Sequence[fx.Node]) -> bool:
    """Whether the layer before a position can take the factors of its input."""
    before = layers[position - 1]
    if before.residual >= 0 or any(layer.residual == position for layer in layers):
        return False
    affine = before.norm_weight >= 0 if before.norm else before.scale >= 0
    read = [getattr(before, name) for name in ("scale", "bias", "norm_weight", "norm_bias")]
    floats = all(ctx.stored(params[at]).dtype is torch.float32 for at in read if at >= 0)
    return affine and floats and before.activation in _HOMOGENEOUS


def _multiplied(ctx: PassContext, node: fx.Node, params: list[fx.Node], at: int, factor: torch.Tensor) -> int:
    """The position of a vector times the factors."""
    read = params[at]
    with ctx.before(node):
        params.append(
            ctx.constant(f"{str(read.target).replace('.', '_')}_migrated", ctx.stored(read).detach() * factor)
        )
    return len(params) - 1
