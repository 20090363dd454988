"""fuse-cross: cross layers, one after another, become one operator.

    x0 * (x . w) + b + x             -> recfx.cross (vector, DCN)
    x0 * (W x + b) + x               -> recfx.cross (full, DCN-v2)
    x0 * (U (V x) + b) + x           -> recfx.cross (low rank)
    cross(cross(x0, x)) with one x0  -> one recfx.cross of all layers
    cross(x0, cross(x0, x) + c)      -> cross(x0, cross(x0, x)) + c, biases grown by W c

The last rewrite moves a bias that is added after a full or low-rank layer (torch-rechub) to the end of the stack, where all such biases
become one addition.

Layers may be written on rows [B, D], on columns [B, D, 1] (deepctr-torch) or on the transpose [D, B] (recbole), with linear, matmul or
tensordot.

Requires: functional. Exactness: REASSOC (a backend may sum in another order).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops import cross
from recfx.passes._linear import rounded
from recfx.passes._match import only_user, same_shape, value
from recfx.passes._properties import CANONICAL
from recfx.passes.cross.cross_layers import CrossStep, match_cross
from recfx.passes.cross.vector_products import rows_of
from recfx.passes.mlp.parameters import Fresh, Param
from recfx.pipeline import Miss, Pass, PassContext, PassSpec, apply_rules, register

_aten = torch.ops.aten


@register
class FuseCross(Pass):
    """Recognises cross layers and merges those that follow each other."""

    spec = PassSpec(
        "fuse-cross",
        "Fuses cross layers (vector, full, low rank), one after another, into one operator.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-fused"}),
        forbids=frozenset({"linears-quantised"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules(
            [
                ("cross-layer", (_aten.add.Tensor,), _layer),
                ("join-shifts", (_aten.add.Tensor,), _join_shifts),
                ("move-shift", (cross.cross,), _move_shift),
                ("merge-layers", (cross.cross,), _merge),
                ("column-and-back", (_aten.squeeze.dim,), _column_and_back),
            ],
            ctx,
        )


def _layer(node: fx.Node, ctx: PassContext) -> Any:
    found = match_cross(ctx, node)
    if found is None or isinstance(found, Miss):
        return found
    held, x = tensor_of(node), tensor_of(found.x)
    as_rows = same_shape(held, x)
    as_column = held.ndim == 3 and same_shape(held[..., 0], x) and held.shape[2] == 1
    if not as_rows and not as_column:
        return Miss("its terms broadcast against each other", node)
    if _bias_follows(ctx, node, found):
        return None
    return _emit(ctx, found, column=as_column and not as_rows)


def _bias_follows(ctx: PassContext, node: fx.Node, found: CrossStep) -> bool:
    """Whether the next addition adds the bias of a vector layer; then it is the whole layer."""
    user = only_user(node)
    if found.kind != cross.VECTOR or found.bias is not None or user is None:
        return False
    whole = match_cross(ctx, user)
    return isinstance(whole, CrossStep) and whole.x is found.x and whole.bias is not None


def _emit(ctx: PassContext, step: CrossStep, *, column: bool) -> fx.Node:
    params: list[fx.Node] = []

    def position(param: Param | None) -> int:
        if param is None:
            return -1
        params.append(ctx.constant(param.stem, param.tensor) if isinstance(param, Fresh) else param)
        return len(params) - 1

    layer = cross.CrossLayer(step.kind, position(step.weight), position(step.bias), position(step.inner))
    result = ctx.call(cross.cross, step.x0, step.x, params, cross.encode([layer]))
    if column:
        result = ctx.call(_aten.unsqueeze.default, result, 2)
    return result if step.after is None else ctx.call(_aten.add.Tensor, result, step.after)


def _shift_behind(ctx: PassContext, node: Any) -> tuple[fx.Node, fx.Node, torch.Tensor] | None:
    """(stack, read, c) of a stack plus a constant vector c."""
    if node.target is not _aten.add.Tensor or node.kwargs or len(node.args) != 2:
        return None
    stack, read = node.args if ctx.tensor(node.args[0]) is None else node.args[::-1]
    shift, held = ctx.tensor(read), value(stack)
    if shift is None or held is None or stack.target is not cross.cross or shift.dtype is not held.dtype:
        return None
    fits = tuple(shift.shape) in ((held.shape[1],), (1, held.shape[1]))
    return (stack, read, shift.detach()) if fits else None


def _join_shifts(node: fx.Node, ctx: PassContext) -> Any:
    """(cross + c) + d -> cross + (c + d)."""
    if node.kwargs or len(node.args) != 2:
        return None
    operands: tuple[Any, ...] = node.args
    inner, read = operands if ctx.tensor(operands[0]) is None else operands[::-1]
    found = _shift_behind(ctx, inner) if isinstance(inner, fx.Node) and only_user(inner) is node else None
    other = ctx.tensor(read)
    if found is None or other is None or other.dtype is not found[2].dtype or other.numel() != found[2].numel():
        return None
    total = rounded(found[2].double().reshape(-1) + other.detach().double().reshape(-1), other.dtype, like=other)
    if isinstance(total, Miss):
        return total
    return ctx.call(_aten.add.Tensor, found[0], ctx.constant(f"{read.target}_sum", total))


def _move_shift(node: fx.Node, ctx: PassContext) -> Any:
    """A constant added between two stacks of one x0 is added behind the second: x0 * (W (y + c) + b) + y + c."""
    total: Any = node.args[1]
    found = _shift_behind(ctx, total)
    if found is None or found[0].args[0] is not node.args[0]:
        return None
    stack, read, shift = found
    if only_user(total) is not node or only_user(stack) is not total:
        return Miss("an operator between the layers has other users", total)
    params: list[Any] = items_of(node, 2)
    layers = cross.decode(items_of(node, 3))
    if any(layer.kind == cross.VECTOR for layer in layers):
        return Miss("a vector layer has no bias inside its product that could take it", total)
    if any(layer.scale >= 0 or layer.inner_scale >= 0 for layer in layers):
        return Miss("the weights of the layers are quantised already", total)
    shifted: list[torch.Tensor] = []
    for layer in layers:
        bias = _shifted(ctx, params, layer, shift)
        if isinstance(bias, Miss):
            return bias
        shifted.append(bias)
    for index, bias in enumerate(shifted):
        name = params[layers[index].weight].target
        params.append(ctx.constant(f"{name}_shift", bias))
        layers[index] = dataclasses.replace(layers[index], bias=len(params) - 1)
    params, layers = _without_gaps(params, layers)
    moved = ctx.call(cross.cross, node.args[0], stack, params, cross.encode(layers))
    return ctx.call(_aten.add.Tensor, moved, read)


def _shifted(ctx: PassContext, params: list[Any], layer: cross.CrossLayer, shift: torch.Tensor) -> torch.Tensor | Miss:
    """The new bias of a layer when a constant is taken out of its input: b + W c, computed in float64."""
    weight = ctx.stored(params[layer.weight])
    bias, inner = (ctx.tensor(params[n]) if n >= 0 else None for n in (layer.bias, layer.inner))
    image = shift.detach().double().reshape(-1)
    for matrix in (inner, weight):
        image = image if matrix is None else matrix.detach().double() @ image
    like = weight.new_zeros(len(weight)) if bias is None else bias
    return rounded(image + like.detach().double(), weight.dtype, like=like)


def _without_gaps(params: list[Any], layers: list[cross.CrossLayer]) -> tuple[list[Any], list[cross.CrossLayer]]:
    """The parameters that layers read, and the layers with the new positions."""
    names = ("weight", "bias", "inner", "scale", "inner_scale")
    used = sorted({getattr(layer, name) for layer in layers for name in names} - {-1})
    new = {old: position for position, old in enumerate(used)} | {-1: -1}
    moved = [dataclasses.replace(y, **{name: new[getattr(y, name)] for name in names}) for y in layers]
    return [params[old] for old in used], moved


def _merge(node: fx.Node, ctx: PassContext) -> Any:
    """A stack behind another stack of layers that multiply with the same x0."""
    first = rows_of(node.args[1])
    if first is None or first.target is not cross.cross:
        return None
    if first.args[0] is not node.args[0]:
        return Miss("the layers before multiply with another tensor", first)
    if only_user(first) is not node:
        return Miss("the result of the layers before is read elsewhere as well", first)
    params: list[Any] = items_of(first, 2)
    moved = [_position(ctx, params, param) for param in items_of(node, 2)]
    layers = cross.decode(items_of(first, 3))
    for layer in cross.decode(items_of(node, 3)):
        at = {name: moved[n] for name, n in layer.positions().items()}
        layers.append(dataclasses.replace(layer, **at))
    return ctx.call(cross.cross, node.args[0], first.args[1], params, cross.encode(layers))


def _position(ctx: PassContext, params: list[Any], param: Any) -> int:
    """The position of a parameter in a list; a new one is appended, tied weights share a position."""
    tensor = ctx.tensor(param)
    for index, other in enumerate(params):
        if other is param or (tensor is not None and ctx.tensor(other) is tensor):
            return index
    params.append(param)
    return len(params) - 1


def _column_and_back(node: fx.Node, ctx: PassContext) -> Any:
    """squeeze(unsqueeze(cross)) -> cross."""
    source: Any = node.args[0]
    if node.args[1] not in (2, -1) or source.target is not _aten.unsqueeze.default:
        return None
    inner: Any = source.args[0]
    held = value(inner)
    if inner.target is not cross.cross or source.args[1] != 2 or held is None or held.ndim != 2:
        return None
    return inner
