"""Products of tensors, and attention."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Op
from recfx.kernels.slots import AttentionFloat, AttentionInt, AttentionView, BmmFloat, BmmView
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.gemm import emit_gemm, even_rows
from recfx.targets.native.rules.pointwise import emit_pointwise
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation, View
from recfx.targets.native.values import Dim, Unsupported, Value, merge

_aten = torch.ops.aten


def _matrices(value: Value) -> View:
    """[outer, rows, columns] with any strides.

    Raises:
        Unsupported: A matrix runs over the batch, or the outer dimensions are not evenly spaced.
    """
    rows, columns = value.dims[-2:]
    if rows.batch or columns.batch:
        raise Unsupported("one of its matrices runs over the batch")
    runs = merge(value.dims[:-2])
    if len(runs) > 1:
        raise Unsupported("its outer dimensions are not evenly spaced")
    return view(value, [runs[0] if runs else (1, 0), (rows.size, rows.stride), (columns.size, columns.stride)])


def _operand(builder: PlanBuilder, node: Any) -> Value:
    value = builder.value(node)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"one of its inputs is {builder.dtype(value)}")
    try:
        _matrices(value)
    except Unsupported:
        if any(d.batch for d in value.dims[-2:]):
            raise
        return compact(builder, value)
    return value


def _broadcast(value: Value, outer: list[Dim]) -> Value:
    """Repeats a matrix over the outer dimensions that it lacks."""
    own = list(value.dims[:-2])
    own = [Dim(1, 0)] * (len(outer) - len(own)) + own
    dims = [
        w if w.size == d.size and w.batch == d.batch else Dim(d.size, 0, d.batch)
        for w, d in zip(own, outer, strict=True)
    ]
    return Value(value.slot, value.offset, (*dims, *value.dims[-2:]))


@rule(_aten.bmm.default, _aten.matmul.default, _aten.mm.default)
def _product(builder: PlanBuilder, node: fx.Node) -> None:
    _lower_product(builder, node, node.args[0], node.args[1])


@rule(_aten.baddbmm.default, _aten.addmm.default)
def _added_product(builder: PlanBuilder, node: fx.Node) -> None:
    """Beta times a tensor plus alpha times a product. With a beta of zero the tensor is not read."""
    names = ["input", "left", "right"]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | {"beta": 1, "alpha": 1} | dict(node.kwargs)
    _lower_product(builder, node, given["left"], given["right"])
    beta, alpha = float(given["beta"]), float(given["alpha"])
    product = builder.values[node]
    if beta == 0.0 and alpha == 1.0:
        return
    inputs, operations = [product], [] if alpha == 1.0 else [Operation(Op.MUL_C, 0, 0, alpha)]
    if beta != 0.0:
        inputs.append(builder.value(given["input"], mixed=True))
        if builder.dtype(inputs[1]) is not torch.float32:
            raise Unsupported(f"one of its inputs is {builder.dtype(inputs[1])}")
        held = -len(operations) if operations else 0
        operations += [Operation(Op.MUL_C, 1, 0, beta), Operation(Op.ADD, held, -len(operations) - 1)]
    out = builder.result(node, like=inputs)
    emit_pointwise(builder, inputs, out, operations, [])
    builder.values[node] = out


def _lower_product(builder: PlanBuilder, node: fx.Node, left: Any, right: Any) -> None:
    if right.op == "get_attr" and builder.tensor(right).ndim == 2:
        weight = builder.tensor(right)
        if weight.dtype is not torch.float32:
            raise Unsupported(f"its weight is {weight.dtype}")
        x = even_rows(builder, left, mixed=True)
        out = builder.result(node, anywhere=True, like=[x])
        emit_gemm(builder, x, weight.T.contiguous(), out)
        builder.values[node] = out
        return
    if left.op == "get_attr" and builder.tensor(left).ndim == 2 and len(builder.value(right).dims) > 2:
        return _turned_product(builder, node, builder.tensor(left), right)
    if any(len(builder.value(a).dims) < 2 for a in (left, right)):
        return _lower_vector_product(builder, node, left, right)
    out_shape = builder.shape(node)
    sides = []
    for side in (left, right):
        wide = _broadcast(_operand(builder, side), out_shape[:-2])
        try:
            _matrices(wide)
        except Unsupported:
            wide = compact(builder, wide)
        sides.append(wide)
    out = builder.result(node)
    views = {BmmView.LEFT: _matrices(sides[0]), BmmView.RIGHT: _matrices(sides[1])}
    builder.emit(Kind.BMM, out, _matrices(out).runs, views, floats={BmmFloat.FACTOR: 1.0})
    builder.values[node] = out


def _lower_vector_product(builder: PlanBuilder, node: fx.Node, left: Any, right: Any) -> None:
    """A matrix with a constant vector: a layer of one output."""
    if right.op != "get_attr" or builder.tensor(right).ndim != 1 or builder.tensor(right).dtype is not torch.float32:
        raise Unsupported("its vector is not a float32 constant")
    x = even_rows(builder, left)
    if len(x.dims) < 2:
        raise Unsupported("it multiplies two vectors")
    out = builder.result(node)
    emit_gemm(builder, x, builder.tensor(right).reshape(1, -1), Value(out.slot, out.offset, (*out.dims, Dim(1, 1))))
    builder.values[node] = out


def _turned_product(builder: PlanBuilder, node: fx.Node, weight: torch.Tensor, right: Any) -> None:
    """A constant times a matrix of each row: W x = (x^T W^T)^T, so that the constant is packed once for all rows."""
    if weight.dtype is not torch.float32:
        raise Unsupported(f"its weight is {weight.dtype}")
    value = builder.value(right)
    if builder.dtype(value) is not torch.float32 or any(d.batch for d in value.dims[-2:]):
        raise Unsupported("its matrix runs over the batch, or is not float32")
    turned = compact(builder, Value(value.slot, value.offset, (*value.dims[:-2], value.dims[-1], value.dims[-2])))
    out = builder.temp((*turned.dims[:-1], Dim(weight.shape[0], 1)))
    emit_gemm(builder, turned, weight, out)
    builder.values[node] = Value(out.slot, out.offset, (*out.dims[:-2], out.dims[-1], out.dims[-2]))


def _exchanges_heads(node: fx.Node) -> bool:
    """Whether a node exchanges the two middle ones of four dimensions."""
    arguments: Any = node.args
    if node.target is _aten.permute.default:
        return [d % 4 for d in arguments[1]] == [0, 2, 1, 3]
    return node.target is _aten.transpose.int and {d % 4 for d in arguments[1:3]} == {1, 2}


def _attention_result(builder: PlanBuilder, node: fx.Node) -> Value:
    """The place of an attention's result [B, H, M, E]: if it is only read with heads and queries exchanged, in that order in memory."""
    out = builder.result(node)
    if len(out.dims) != 4 or not all(_exchanges_heads(user) for user in node.users) or out.dims[0].size != 1:
        return out
    outer, heads, queries, columns = out.dims
    moved = (
        dataclasses.replace(heads, stride=columns.size),
        dataclasses.replace(queries, stride=heads.size * columns.size),
    )
    return Value(out.slot, out.offset, (outer, *moved, columns))


@rule(_aten.scaled_dot_product_attention.default)
def _attention(builder: PlanBuilder, node: fx.Node) -> None:
    names = ["query", "key", "value", "attn_mask", "dropout_p", "is_causal"]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if given.get("dropout_p") or given.get("enable_gqa"):
        raise Unsupported("it has dropout or grouped queries")
    outer = builder.shape(node)[:-2]
    views: dict[int, View] = {}
    for position, name in zip((AttentionView.QUERY, AttentionView.KEY, AttentionView.VALUE), names[:3], strict=True):
        wide = _broadcast(_operand(builder, given[name]), outer)
        try:
            views[position] = _matrices(wide)
        except Unsupported:
            views[position] = _matrices(compact(builder, wide))
    ints: dict[int, int] = {AttentionInt.CAUSAL: int(bool(given.get("is_causal")))}
    mask: Any = given.get("attn_mask")
    if mask is not None:
        value = builder.value(mask)
        if builder.dtype(value) not in (torch.bool, torch.float32):
            raise Unsupported(f"its mask is {builder.dtype(value)}")
        q, k = (views[name].runs[1][0] for name in (AttentionView.QUERY, AttentionView.KEY))
        square = [Dim(s, 0) if d.size == 1 and s != 1 else d for d, s in zip(value.dims[-2:], (q, k), strict=True)]
        wide = _broadcast(Value(value.slot, value.offset, (*value.dims[:-2], *square)), outer)
        views[AttentionView.MASK] = _matrices(wide)
        ints[AttentionInt.MASK_IS_BOOLEAN] = int(builder.dtype(value) is torch.bool)
    query: Any = given["query"]
    scale = given.get("scale")
    if scale is None:
        scale = int(query.meta["val"].shape[-1]) ** -0.5
    out = _attention_result(builder, node)
    builder.emit(
        Kind.ATTENTION, out, _matrices(out).runs, views, ints=ints, floats={AttentionFloat.SCALE: float(scale)}
    )
    builder.values[node] = out
