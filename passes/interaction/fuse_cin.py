"""fuse-cin: the layers of xDeepFM's compressed interaction network become one operator each, which stores no outer product.

    conv1d(reshape(x[:, :, None] * x0[:, None]), w, b) -> recfx.cin(x0, x, [w, b])       all spellings of `outer` and `contractions`
    cin + b                                            -> recfx.cin with the bias b
    relu(cin)                                          -> recfx.cin with the activation
    cin(x0, x0, [w])                                   -> recfx.cin(x0, x0, [w + w'])    with the products of m >= h only

The last rewrite needs a layer without activation: the sum of an infinite product and its equal is NaN if their weights differ in sign, and
an activation would make a finite number of the infinity that the sum of the weights gives.

Requires: functional. Exactness: REASSOC (products are summed in another order, and weights of equal products are added first).
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import REGROUPINGS, SPLITS
from recfx.ir.program import Program
from recfx.ops.cin import cin, triangle_positions
from recfx.ops.mlp import Layer, decode, encode
from recfx.passes._linear import rounded
from recfx.passes._match import only_user, permutation, value
from recfx.passes._properties import CANONICAL
from recfx.passes.interaction.contractions import CONTRACTIONS, Contraction, O, contraction_of
from recfx.passes.interaction.outer import B, D
from recfx.passes.mlp.activations import match_activation
from recfx.passes.mlp.parameters import Fresh
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten
_ACTIVATIONS = (
    *(_aten.relu.default, _aten.silu.default, _aten.sigmoid.default, _aten.tanh.default, _aten.gelu.default),
    *(_aten.leaky_relu.default, _aten.clamp.default, _aten.clamp_min.default, _aten.mul.Tensor),
    *(_aten.prelu.default, _aten._prelu_kernel.default),
)

#: Operators behind which the maps of a layer are looked for: their parts, and activations.
_BEHIND = (operator.getitem, _aten.slice.Tensor, *SPLITS, *_ACTIVATIONS)


@register
class FuseCin(Pass):
    """Recognises the layers of a compressed interaction network."""

    spec = PassSpec(
        "fuse-cin",
        "Fuses each layer of a compressed interaction network (xDeepFM) into one operator.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-fused"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        weights = _Weights()
        apply_rules(
            [
                ("layer", CONTRACTIONS, weights.layer),
                ("bias", (_aten.add.Tensor,), _bias),
                ("activation", _ACTIVATIONS, _activation),
            ],
            ctx,
        )
        apply_rules([("triangle", (cin,), weights.triangle)], ctx)


class _Weights:
    """Weights in the form of the operator. Layers that share a weight share its new form."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], fx.Node] = {}

    def layer(self, node: fx.Node, ctx: PassContext) -> Any:
        found = contraction_of(ctx, node)
        if found is None:
            return None
        if found.product is not None and only_user(found.product) is not node:
            return Miss("the outer product is read elsewhere as well", found.product)
        if found.bias is not None and ctx.tensor(found.bias) is None:
            return Miss("its bias is computed", node)
        left, right = found.outer.left, found.outer.right
        same = left.node is right.node and _labels(left) == _labels(right)
        swapped = _is_layer(right.node) and not _is_layer(left.node)
        cube = found.weight.transpose(1, 2) if swapped else found.weight
        key = (id(ctx.stored(found.read)), swapped, tuple(cube.shape), cube.stride())
        weight = self._weight(ctx, key, found.read, cube.flatten(1))
        params = [weight] if found.bias is None else [weight, found.bias]
        x, x0 = (right, left) if swapped else (left, right)
        fields = x0.emit(ctx)
        maps = fields if same else x.emit(ctx)
        layer = Layer(0, -1 if found.bias is None else 1)
        return _arranged(ctx, ctx.call(cin, fields, maps, params, *encode([layer]), False), found)

    def triangle(self, node: fx.Node, ctx: PassContext) -> Any:
        """The layer of the fields with themselves, with equal products taken once."""
        x0, x, given, ints, numbers, triangle = node.args
        (layer,) = decode(ints, numbers)  # type: ignore[arg-type]
        params: list[Any] = list(given)  # type: ignore[arg-type]
        weight = ctx.tensor(params[layer.weight])
        if x0 is not x or triangle or layer.activation != "none" or weight is None or weight.dtype is not torch.float32:
            return None
        fields = int(tensor_of(x0).shape[1])
        cube = weight.detach().double().reshape(-1, fields, fields)
        summed = cube + torch.triu(cube.transpose(1, 2), 1)
        exact = summed.flatten(1)[:, list(triangle_positions(fields))]
        matrix = rounded(exact, weight.dtype, like=weight)
        if isinstance(matrix, Miss):
            return matrix
        params[layer.weight] = self._weight(ctx, (id(weight), "triangle"), params[layer.weight], matrix)
        return ctx.call(cin, x0, x, params, ints, numbers, True)

    def _weight(self, ctx: PassContext, key: tuple[Any, ...], read: fx.Node, matrix: torch.Tensor) -> fx.Node:
        if key not in self._made:
            with ctx.before(read):
                self._made[key] = ctx.constant(f"{read.target}_maps", matrix.contiguous())
        return self._made[key]


def _labels(side: Any) -> list[str]:
    """The labels of an operand, with one name for the maps of both."""
    return [label if label in (B, D) else "map" for label in side.labels if label is not None]


def _is_layer(node: Any) -> bool:
    """Whether a node is the result of a layer, or a part of it."""
    while isinstance(node, fx.Node) and node.target in _BEHIND:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target is cin


def _arranged(ctx: PassContext, made: fx.Node, found: Contraction) -> fx.Node:
    """A result [B, O, D] with the dimensions of the contraction."""
    order = [(B, O, D).index(label) for label in found.axes if label is not None]
    made = made if order == [0, 1, 2] else ctx.call(_aten.permute.default, made, order)
    for position, label in enumerate(found.axes):
        made = ctx.call(_aten.unsqueeze.default, made, position) if label is None else made
    return made


def _bias(node: fx.Node, ctx: PassContext) -> Any:
    """cin + b with a constant that acts on the outputs alone."""
    if node.kwargs or len(node.args) != 2:
        return None
    layer, read = node.args if _constant_behind(ctx, node.args[0]) is None else node.args[::-1]
    bias, held = _constant_behind(ctx, read), value(read)
    if not isinstance(layer, fx.Node) or layer.target is not cin or bias is None or held is None:
        return None
    x0, x, params, ints, numbers, triangle = layer.args
    (found,) = decode(ints, numbers)  # type: ignore[arg-type]
    outputs = int(tensor_of(layer).shape[1])
    if found.bias >= 0 or found.activation != "none" or only_user(layer) is not node:
        return None
    if bias.dtype is not torch.float32 or tuple(held.shape) not in ((outputs, 1), (1, outputs, 1)):
        return Miss("the constant does not act on the outputs alone", node)
    vector = ctx.constant(f"{node.name}_bias", bias.detach().reshape(-1).contiguous())
    new = dataclasses.replace(found, bias=len(params))  # type: ignore[arg-type]
    return ctx.call(cin, x0, x, [*params, vector], *encode([new]), triangle)  # type: ignore[misc]


def _constant_behind(ctx: PassContext, node: Any) -> torch.Tensor | None:
    """The constant that a node holds in the same order of elements."""
    while isinstance(node, fx.Node) and node.target in REGROUPINGS:
        node = node.args[0]
    return ctx.tensor(node)


def _activation(node: fx.Node, ctx: PassContext) -> Any:
    """The activation of a layer that is read only there, or of a permutation of its result."""
    given = next((a for a in node.args if isinstance(a, fx.Node) and _layer_below(a) is not None), None)
    layer = None if given is None else _layer_below(given)
    if given is None or layer is None:
        return None
    x0, x, params, ints, numbers, triangle = layer.args
    (held,) = decode(ints, numbers)  # type: ignore[arg-type]
    found = match_activation(ctx, given)
    if held.activation != "none" or isinstance(found, Miss) or found.output is not node:
        return None
    if not all(user in found.nodes for user in given.users) or (given is not layer and only_user(layer) is not given):
        return Miss("the result before the activation is read elsewhere as well", layer)
    if found.gate_scale is not None or (found.slope is not None and not _is_single(ctx, found.slope)):
        return Miss("its activation has parameters for each column", node)
    params = list(params)  # type: ignore[arg-type]
    if found.slope is not None:
        params.append(
            ctx.constant(found.slope.stem, found.slope.tensor) if isinstance(found.slope, Fresh) else found.slope
        )
    slope = -1 if found.slope is None else len(params) - 1
    new = dataclasses.replace(held, activation=found.name, number=found.number, slope=slope)
    made = ctx.call(cin, x0, x, params, *encode([new]), triangle)
    return made if given is layer else ctx.call(_aten.permute.default, made, permutation(given))


def _layer_below(node: fx.Node) -> fx.Node | None:
    below: Any = node.args[0] if permutation(node) is not None else node
    return below if isinstance(below, fx.Node) and below.target is cin else None


def _is_single(ctx: PassContext, slope: Any) -> bool:
    tensor = slope.tensor if isinstance(slope, Fresh) else ctx.tensor(slope)
    held = value(slope) if tensor is None else tensor
    return held is not None and held.numel() == 1
