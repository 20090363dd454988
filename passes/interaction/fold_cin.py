"""fold-cin: layers of a compressed interaction network without activation, whose maps are only summed, are not computed.

    linear(cin(x0, x).sum(2))             -> (x * (A x0)).sum((1, 2))                     A = the layer's weight times the linear's
    linear(cin(x0, cin(x0, x)).sum(2))    -> (x * (cin(x0, x0) + A x0)).sum((1, 2))       the weights of both layers times the linear's
    cin(x0, x).sum(2)                     -> linear(flatten(x @ x0.mT), w)

The linear has one output. Its other inputs and the biases stay in a linear. The first two rewrites replace the product of each pair of
a map and a field with every output of a layer by a product with one number. The third takes the sum before the product with the weight.

Requires: functional. Exactness: REASSOC (sums are taken in another order, and products of weights are computed first).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops.cin import cin, product_count, triangle_positions
from recfx.ops.mlp import Layer, encode
from recfx.passes._linear import rounded
from recfx.passes._match import argument, only_user
from recfx.passes._properties import CANONICAL
from recfx.passes.interaction.linear_cin import LinearCin, Pooled, layer_behind, linear_cin, pooled_parts, readers
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
class FoldCin(Pass):
    """Folds layers without activation into the linear that reads the sums of their maps."""

    spec = PassSpec(
        "fold-cin",
        "Folds layers of an interaction network without activation into the linear behind them.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-fused"}),
        forbids=frozenset({"linears-quantised"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules([("into-linear", (_aten.linear.default,), _into_linear)], ctx)
        apply_rules([("sum-first", (_aten.sum.dim_IntList,), _sum_first)], ctx)


def _into_linear(node: fx.Node, ctx: PassContext) -> Any:
    """The last layer whose maps a linear with one output reads through sums only."""
    weight, bias = ctx.tensor(node.args[1]), ctx.tensor(argument(node, 2, "bias"))
    parts = pooled_parts(node)
    if parts is None or weight is None or weight.dtype is not torch.float32:
        return None
    if not any(part.maps is not None and layer_behind(part.maps) is not None for part in parts):
        return None
    if weight.shape[0] != 1 or (bias is None and argument(node, 2, "bias") is not None):
        return Miss("the linear has several outputs, or its bias is computed", node)
    head = _Head(ctx, node, parts, weight.detach().double()[0], None if bias is None else bias.detach().double())
    for part in reversed(parts):
        layer = None if part.maps is None else linear_cin(ctx, part.maps)
        if layer is not None and readers(layer.node) <= head.sums:
            return _fold(head, layer)
    return Miss("its layers have an activation, or their maps are read elsewhere as well", node)


class _Head:
    """The linear with one output, as coefficients of its parts.

    Attributes:
        parts: The parts of its input.
        sums: The nodes through which it reads the parts.
    """

    def __init__(
        self, ctx: PassContext, node: fx.Node, parts: list[Pooled], weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.ctx, self.node, self.parts, self.weight, self.bias = ctx, node, parts, weight, bias
        self.sums = {part.reader for part in parts if part.reader is not None}

    def of(self, layer: LinearCin) -> torch.Tensor:
        """The coefficient of each output of a layer."""
        found = torch.zeros(layer.outputs, dtype=torch.float64)
        for part, (start, stop) in self._columns():
            place = None if part.maps is None else layer_behind(part.maps)
            if place is not None and place[0] is layer.node:
                found[place[1] : place[2]] += self.weight[start:stop]
        return found

    def without(self, layers: list[fx.Node]) -> tuple[list[Pooled], torch.Tensor]:
        """The parts that are not maps of some layers, and their coefficients."""
        kept, weights = [], [torch.zeros(0, dtype=torch.float64)]
        for part, (start, stop) in self._columns():
            place = None if part.maps is None else layer_behind(part.maps)
            if place is None or place[0] not in layers:
                kept.append(part)
                weights.append(self.weight[start:stop])
        return kept, torch.cat(weights)

    def _columns(self) -> list[tuple[Pooled, tuple[int, int]]]:
        ends = [0]
        for part in self.parts:
            ends.append(ends[-1] + part.width)
        return [(part, (ends[i], ends[i + 1])) for i, part in enumerate(self.parts)]


def _fold(head: _Head, last: LinearCin) -> Any:
    """Replaces the last layer, and the one before it if that takes fewer products, by a bilinear form of the maps before them."""
    outputs = head.of(last)
    columns = int(tensor_of(last.node).shape[2])
    form = torch.einsum("o,ohm->hm", outputs, last.weight.double())  # of the last layer's x and x0
    constant = columns * float(outputs @ last.bias64)
    x, linear, quadratic, folded = last.x, form, None, [last.node]
    fields_form = torch.zeros(last.weight.shape[2], dtype=torch.float64)
    before = _before(head, last)
    if before is not None:
        cofactor = _on_outputs(form, before)
        direct = head.of(before.layer)
        weight = before.layer.weight.double()
        linear = torch.einsum("o,ogm->gm", direct, weight)
        quadratic = torch.einsum("ok,ogm->gmk", cofactor, weight)
        constant += columns * float(direct @ before.layer.bias64)
        fields_form = before.layer.bias64 @ cofactor
        x, folded = before.layer.x, [last.node, before.layer.node]
    return _emit(head, last.x0, x, _Form(linear, quadratic, fields_form, constant), folded)


class _Before:
    """The layer before the last, of whose outputs the last reads `start` to `stop`."""

    def __init__(self, layer: LinearCin, start: int, stop: int) -> None:
        self.layer, self.start, self.stop = layer, start, stop


def _on_outputs(form: torch.Tensor, before: _Before) -> torch.Tensor:
    """A form of the maps that the last layer reads, as one of all outputs of the layer before it."""
    whole = form.new_zeros(before.layer.outputs, form.shape[1])
    whole[before.start : before.stop] = form
    return whole


def _before(head: _Head, last: LinearCin) -> _Before | None:
    """The layer before the last, if it can be folded and its form of the maps before it takes fewer products than the layer."""
    place = layer_behind(last.x)
    layer = None if place is None else linear_cin(head.ctx, place[0])
    if place is None or layer is None or layer.x0 is not last.x0 or not readers(layer.node) <= head.sums | {last.node}:
        return None
    maps, fields = layer.weight.shape[1:]
    own = layer.outputs * product_count(maps, fields, layer.triangle) + layer.outputs * fields
    return _Before(layer, place[1], place[2]) if maps * product_count(fields, fields, True) < own else None


class _Form:
    """sum over d of sum_gm x_g x0_m (linear_gm + sum_k quadratic_gmk x0_k) + sum_m fields_m x0_m, plus a constant."""

    def __init__(
        self, linear: torch.Tensor, quadratic: torch.Tensor | None, fields: torch.Tensor, constant: float
    ) -> None:
        self.linear, self.quadratic, self.fields, self.constant = linear, quadratic, fields, constant


def _emit(head: _Head, x0: fx.Node, x: fx.Node, form: _Form, folded: list[fx.Node]) -> fx.Node | Miss:
    kept, weights = head.without(folded)
    if bool(form.fields.any()):
        weights = torch.cat([weights, form.fields])
    total = form.constant if head.bias is None else head.bias + form.constant
    bias = torch.as_tensor(total, dtype=torch.float64).reshape(1)
    quadratic = None
    if form.quadratic is not None:
        both = form.quadratic + torch.triu(form.quadratic.transpose(1, 2), 1)
        quadratic = both.flatten(1)[:, list(triangle_positions(both.shape[1]))]
    new = [rounded(t, torch.float32, like=head.weight) for t in (weights[None], bias, form.linear)]
    new += [] if quadratic is None else [rounded(quadratic, torch.float32, like=head.weight)]
    refused = next((t for t in new if isinstance(t, Miss)), None)
    if refused is not None:
        return refused
    row, offset, linear, *rest = [t for t in new if isinstance(t, torch.Tensor)]
    cofactor = _cofactor(head, x0, linear, rest)
    pairs = head.ctx.call(_aten.mul.Tensor, x, cofactor)
    result = head.ctx.call(_aten.sum.dim_IntList, pairs, [1, 2])
    result = head.ctx.call(_aten.unsqueeze.default, result, 1)
    inputs = [part.emit(head.ctx) for part in kept]
    if bool(form.fields.any()):
        inputs.append(head.ctx.call(_aten.sum.dim_IntList, x0, [2]))
    stem = str(head.node.args[1]).replace(".", "_")
    vector = head.ctx.constant(f"{stem}_bias_folded", offset) if bool(offset.any()) else None
    if inputs:
        given = inputs[0] if len(inputs) == 1 else head.ctx.call(_aten.cat.default, inputs, 1)
        other = head.ctx.call(_aten.linear.default, given, head.ctx.constant(f"{stem}_folded", row), vector)
        return head.ctx.call(_aten.add.Tensor, other, result)
    return result if vector is None else head.ctx.call(_aten.add.Tensor, result, vector)


def _cofactor(head: _Head, x0: fx.Node, linear: torch.Tensor, quadratic: list[torch.Tensor]) -> fx.Node:
    """The factor [B, G, D] of the maps."""
    ctx, stem = head.ctx, str(head.node.args[1]).replace(".", "_")
    terms = []
    if quadratic:
        weight = ctx.constant(f"{stem}_quadratic", quadratic[0])
        terms.append(ctx.call(cin, x0, x0, [weight], *encode([Layer(0)]), True))
    if not quadratic or bool(linear.any()):
        terms.append(ctx.call(_aten.matmul.default, ctx.constant(f"{stem}_linear", linear), x0))
    return terms[0] if len(terms) == 1 else ctx.call(_aten.add.Tensor, *terms)


def _sum_first(node: fx.Node, ctx: PassContext) -> Any:
    """The sum over the columns of a layer that is read only there."""
    layer = linear_cin(ctx, node.args[0]) if isinstance(node.args[0], fx.Node) else None
    dims: Any = node.args[1]
    if layer is None or [d % 3 for d in dims] != [2] or node.kwargs.get("dtype") is not None:
        return None
    if only_user(layer.node) is not node:
        return Miss("the maps are read elsewhere as well", layer.node)
    columns = int(tensor_of(layer.node).shape[2])
    products = ctx.call(_aten.bmm.default, layer.x, ctx.call(_aten.permute.default, layer.x0, [0, 2, 1]))
    flat = ctx.call(_aten.reshape.default, products, [-1, layer.weight[0].numel()])
    weight = ctx.constant(f"{layer.name}_flat", layer.weight.flatten(1).contiguous())
    bias = None
    if layer.bias is not None:
        scaled = rounded(layer.bias64 * columns, torch.float32, like=layer.bias)
        if isinstance(scaled, Miss):
            return scaled
        bias = ctx.constant(f"{layer.name}_bias", scaled)
    result = ctx.call(_aten.linear.default, flat, weight, bias)
    return ctx.call(_aten.unsqueeze.default, result, 2) if argument(node, 2, "keepdim", False) else result
