"""Nodes along one axis: reductions, softmax, layer norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.kernels.codes import Kind, Op, Reduction
from recfx.kernels.slots import ReduceInt, ReduceView, SoftmaxView
from recfx.targets.native.builder import PlanBuilder, rows_of, three_runs, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.gemm import Norm, emit_norm, even_rows
from recfx.targets.native.rules.integer import emit_integer_sum
from recfx.targets.native.rules.pointwise import emit_pointwise
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten

_REDUCTIONS: dict[Any, int] = {
    _aten.sum.dim_IntList: Reduction.SUM,
    _aten.mean.dim: Reduction.MEAN,
    _aten.amax.default: Reduction.MAX,
    _aten.amin.default: Reduction.MIN,
    _aten.linalg_vector_norm.default: Reduction.NORM,
}

#: Order of a vector norm -> the reduction. All orders but 2 reduce magnitudes.
_ORDERS = {
    2: Reduction.NORM,
    1: Reduction.SUM,
    float("inf"): Reduction.MAX,
    float("-inf"): Reduction.MIN,
}


def _magnitudes(builder: PlanBuilder, value: Value) -> Value:
    """The absolute values of the elements."""
    found = builder.temp(value.dims)
    emit_pointwise(builder, [value], found, [Operation(Op.MAGNITUDE, 0)], [])
    return found


@rule(*_REDUCTIONS)
def reduce_rows(builder: PlanBuilder, node: fx.Node) -> None:
    """Adds the sum, mean, maximum, minimum or norm of float32 elements, or the sum of integers."""
    if node.kwargs.get("dtype") is not None:
        raise Unsupported("it changes the dtype")
    value = builder.value(node.args[0])
    if builder.dtype(value) is not torch.float32:
        if node.target is _aten.sum.dim_IntList:
            return emit_integer_sum(builder, node, value)
        raise Unsupported(f"its input is {builder.dtype(value)}")
    rank = len(value.dims)
    position = 1
    code = _REDUCTIONS[node.target]
    if node.target is _aten.linalg_vector_norm.default:
        order: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("ord", 2)
        if order not in _ORDERS:
            raise Unsupported(f"its norm has order {order}")
        code, position = _ORDERS[order], 2
        value = value if order == 2 else _magnitudes(builder, value)
    given: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    dims = sorted({int(d) % rank for d in ([given] if isinstance(given, int) else given or range(rank))})
    if any(value.dims[d].batch for d in dims):
        raise Unsupported("it reduces over the batch")
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise Unsupported("it reduces over dimensions that are not neighbours")
    groups = three_runs(value, dims)
    if groups is None:
        value = compact(builder, value)
        groups = three_runs(value, dims)
        assert groups is not None
    out = builder.result(node)
    outer, _, inner = groups
    source = view(value, list(groups))
    builder.emit(
        Kind.REDUCE,
        out,
        [(outer[0], inner[0]), (inner[0], 1)],
        {ReduceView.INPUT: source},
        ints={ReduceInt.REDUCTION: code},
    )
    builder.values[node] = out


@rule(_aten.softmax.int, _aten._softmax.default)
def _softmax(builder: PlanBuilder, node: fx.Node) -> None:
    if node.target is _aten.softmax.int and len(node.args) > 2 and node.args[2] not in (None, torch.float32):
        raise Unsupported("it changes the dtype")
    value = builder.value(node.args[0])
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    dim = argument_of(node, 1, int) % len(value.dims)
    if value.dims[dim].batch:
        raise Unsupported("it normalises over the batch")
    if any(d.size != 1 for d in value.dims[dim + 1 :]):
        return _emit_inner_softmax(builder, node, value, dim)
    out = builder.result(node)
    source = Value(value.slot, value.offset, value.dims[: dim + 1])
    target = Value(out.slot, out.offset, out.dims[: dim + 1])
    try:
        rows = rows_of(source)
    except Unsupported:
        even = compact(builder, value)
        rows = rows_of(Value(even.slot, even.offset, even.dims[: dim + 1]))
    builder.emit(Kind.SOFTMAX, out, rows_of(target).runs, {SoftmaxView.INPUT: rows})
    builder.values[node] = out


def _emit_inner_softmax(builder: PlanBuilder, node: fx.Node, value: Value, dim: int) -> None:
    """A softmax over an axis that is not the last. The axis is moved to the end."""
    dims = [d for i, d in enumerate(value.dims) if i != dim]
    turned = compact(builder, Value(value.slot, value.offset, (*dims, value.dims[dim])))
    made = builder.temp(turned.dims)
    builder.emit(Kind.SOFTMAX, made, rows_of(made).runs, {SoftmaxView.INPUT: rows_of(turned)})
    back = [*made.dims[:-1]]
    back.insert(dim, made.dims[-1])
    builder.values[node] = Value(made.slot, made.offset, tuple(back))


@rule(_aten.layer_norm.default)
def _layer_norm(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = list(node.args) + [None] * (5 - len(node.args))
    x, shape, weight, bias, eps = arguments[:5]
    weight, bias = weight or node.kwargs.get("weight"), bias or node.kwargs.get("bias")
    epsilon: Any = node.kwargs.get("eps", 1e-5) if eps is None else eps
    if len(shape) != 1:
        raise Unsupported("it normalises over several dimensions")
    value = even_rows(builder, x, mixed=True)
    out = builder.result(node, anywhere=True, like=[value])
    weight, bias = (None if read is None else builder.tensor(read) for read in (weight, bias))
    emit_norm(builder, value, out, Norm(weight, bias, float(epsilon)))
    builder.values[node] = out
