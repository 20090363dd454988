"""Normalisations that take several steps: batch norm with stored statistics, RMS norm, log-softmax, logsumexp, cosine similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.kernels.codes import Kind, Op, Reduction
from recfx.kernels.slots import ReduceInt, ReduceView
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.fold import axes, grouped
from recfx.targets.native.rules.pointwise import emit_pointwise, require_floating
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Dim, Unsupported, Value

_aten = torch.ops.aten


def _floating(builder: PlanBuilder, operand: Any) -> Value:
    value = builder.value(operand)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"one of its inputs is {builder.dtype(value)}")
    return value


def _named(node: fx.Node, names: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    return defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


@rule(_aten.batch_norm.default)
def _batch_norm(builder: PlanBuilder, node: fx.Node) -> None:
    """Batch norm with stored statistics: x (w / deviation) + (b - mean w / deviation), one factor and one summand per channel."""
    names = ["input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"]
    given = _named(node, names, {})
    if given["training"] or given["running_mean"] is None or given["running_var"] is None:
        raise Unsupported("it normalises by the statistics of the batch")
    value = _floating(builder, given["input"])
    if len(value.dims) < 2 or value.dims[1].batch:
        raise Unsupported("its channels are the batch")
    factor = (builder.tensor(given["running_var"]) + given["eps"]).rsqrt()
    if given["weight"] is not None:
        factor = factor * builder.tensor(given["weight"])
    shift = -builder.tensor(given["running_mean"]) * factor
    if given["bias"] is not None:
        shift = shift + builder.tensor(given["bias"])
    channels = [_over_channels(builder, tensor, value) for tensor in (factor, shift)]
    out = builder.result(node, anywhere=True)
    emit_pointwise(builder, [value, *channels], out, [Operation(Op.MUL, 0, 1), Operation(Op.ADD, -1, 2)], [])
    builder.values[node] = out


def _over_channels(builder: PlanBuilder, tensor: torch.Tensor, like: Value) -> Value:
    held = builder.constant(tensor.detach().float().contiguous())
    return Value(held.slot, held.offset, (held.dims[0], *(Dim(1, 0) for _ in like.dims[2:])))


def _reduced(builder: PlanBuilder, value: Value, dims: list[int], kind: int) -> Value:
    """A reduction of float32. The reduced dimensions are kept, with one element each."""
    shape = [Dim(1, 0) if i in dims else d for i, d in enumerate(value.dims)]
    source, groups = grouped(builder, value, dims)
    out = builder.temp(shape)
    outer, _, inner = groups
    views = {ReduceView.INPUT: view(source, list(groups))}
    builder.emit(Kind.REDUCE, out, [(outer[0], inner[0]), (inner[0], 1)], views, ints={ReduceInt.REDUCTION: kind})
    return out


def _computed(builder: PlanBuilder, like: Value, inputs: list[Value], operations: list[Operation]) -> Value:
    out = builder.temp(like.dims)
    emit_pointwise(builder, inputs, out, operations, [])
    return out


@rule(_aten.rms_norm.default)
def _rms_norm(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    given = _named(node, ["input", "shape", "weight", "eps"], {"weight": None, "eps": None})
    if len(given["shape"]) != 1:
        raise Unsupported("it normalises over several dimensions")
    eps = torch.finfo(torch.float32).eps if given["eps"] is None else float(given["eps"])
    value = _floating(builder, given["input"])
    squares = _computed(builder, value, [value], [Operation(Op.SQUARE, 0)])
    mean = _reduced(builder, squares, [len(value.dims) - 1], Reduction.MEAN)
    operations = [Operation(Op.ADD_C, 1, 0, eps), Operation(Op.POWER_C, -1, 0, -0.5), Operation(Op.MUL, 0, -2)]
    inputs = [value, mean]
    if given["weight"] is not None:
        inputs.append(_floating(builder, given["weight"]))
        operations.append(Operation(Op.MUL, -3, 2))
    out = builder.result(node, anywhere=True)
    emit_pointwise(builder, inputs, out, operations, [])
    builder.values[node] = out


@rule(_aten.log_softmax.int, _aten._log_softmax.default)
def _log_softmax(builder: PlanBuilder, node: fx.Node) -> None:
    """x - max - log(sum(e^(x - max)))."""
    require_floating(node)
    value = _floating(builder, node.args[0])
    dim = argument_of(node, 1, int) % len(value.dims)
    high = _reduced(builder, value, [dim], Reduction.MAX)
    powers = _computed(builder, value, [value, high], [Operation(Op.SUB, 0, 1), Operation(Op.EXPONENTIAL, -1)])
    total = _reduced(builder, powers, [dim], Reduction.SUM)
    out = builder.result(node, anywhere=True)
    operations = [Operation(Op.SUB, 0, 1), Operation(Op.LOGARITHM, 2), Operation(Op.SUB, -1, -2)]
    emit_pointwise(builder, [value, high, total], out, operations, [])
    builder.values[node] = out


@rule(_aten.logsumexp.default)
def _log_sum_exp(builder: PlanBuilder, node: fx.Node) -> None:
    """max + log(sum(e^(x - max))), with zero in place of an infinite maximum."""
    require_floating(node)
    value = _floating(builder, node.args[0])
    dims = axes(node.args[1], len(value.dims))
    high = _reduced(builder, value, dims, Reduction.MAX)
    finite = [
        Operation(Op.MAGNITUDE, 0),
        Operation(Op.EQUAL_C, -1, 0, float("inf")),
        Operation(Op.MASKED_FILL, -2, 0, 0.0),
    ]
    high = _computed(builder, high, [high], finite)
    powers = _computed(builder, value, [value, high], [Operation(Op.SUB, 0, 1), Operation(Op.EXPONENTIAL, -1)])
    total = _reduced(builder, powers, dims, Reduction.SUM)
    out = builder.result(node)
    kept = Value(out.slot, out.offset, tuple(_with_ones(out, dims, len(value.dims))))
    emit_pointwise(builder, [high, total], kept, [Operation(Op.LOGARITHM, 1), Operation(Op.ADD, 0, -1)], [])
    builder.values[node] = out


def _with_ones(value: Value, dims: list[int], rank: int) -> list[Dim]:
    """A value's dimensions; dropped dimensions `dims` are inserted again, with one element each."""
    held = list(value.dims)
    if len(held) < rank:
        for d in dims:
            held.insert(d, Dim(1, 0))
    return held


@rule(_aten.cosine_similarity.default)
def _cosine(builder: PlanBuilder, node: fx.Node) -> None:
    """The sum of (x / max(|x|, eps)) (y / max(|y|, eps))."""
    require_floating(node)
    given = _named(node, ["x1", "x2", "dim", "eps"], {"dim": 1, "eps": 1e-8})
    sides = [_floating(builder, given[name]) for name in ("x1", "x2")]
    rank = max(len(side.dims) for side in sides)
    sides = [Value(s.slot, s.offset, (*[Dim(1, 0)] * (rank - len(s.dims)), *s.dims)) for s in sides]
    dim = int(given["dim"]) % rank
    if sides[0].dims[dim].size != sides[1].dims[dim].size:
        raise Unsupported("one of its vectors is broadcast")
    norms = [_reduced(builder, side, [dim], Reduction.NORM) for side in sides]
    whole = [a if a.batch or a.size > b.size else b for a, b in zip(sides[0].dims, sides[1].dims, strict=True)]
    products = builder.temp(whole)
    operations = [
        Operation(Op.CLAMP_LOW, 2, 0, float(given["eps"])),
        Operation(Op.DIV, 0, -1),
        Operation(Op.CLAMP_LOW, 3, 0, float(given["eps"])),
        Operation(Op.DIV, 1, -3),
        Operation(Op.MUL, -2, -4),
    ]
    emit_pointwise(builder, [*sides, *norms], products, operations, [])
    total = _reduced(builder, products, [dim], Reduction.SUM)
    builder.values[node] = Value(total.slot, total.offset, (*total.dims[:dim], *total.dims[dim + 1 :]))
