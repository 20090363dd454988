"""Nodes that work on ids and masks: integer arithmetic, counting, picking by index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.op_sets import BITWISE_ANDS, BITWISE_ORS
from recfx.kernels.codes import Kind, Op, Size
from recfx.kernels.slots import IntegerSumInt, IntegerSumView, TakeInt, TakeView
from recfx.targets.native.builder import PlanBuilder, three_runs, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.pointwise import COPIED, emit_pointwise, lower_pointwise
from recfx.targets.native.rules.registry import RULES, Rule, rule
from recfx.targets.native.rules.repeat import numbers_rows
from recfx.targets.native.steps import Operation, View
from recfx.targets.native.values import Dim, Unsupported, Value, joint_runs

_aten = torch.ops.aten
_WHOLE = (torch.bool, torch.int64, torch.int32)

#: A double holds all integers up to this one exactly. Constants are compared with it before they become doubles: the next one would pass.
_LARGEST = 2**53


def lower_whole(
    builder: PlanBuilder,
    node: fx.Node,
    operands: Sequence[Any],
    operations: Sequence[Operation],
    reads: Sequence[torch.dtype] = _WHOLE,
) -> None:
    """Computes a node of integers or a mask by `operations` on `operands`. Constants that are integers are given as such."""
    values = [builder.value(o) for o in operands]
    if any(builder.dtype(v) not in reads for v in values):
        raise Unsupported("it mixes integers and floating-point numbers")
    if any(abs(o.constant) > _LARGEST for o in operations):
        raise Unsupported("its constant is too large")
    if node.meta["val"].dtype is torch.int32 and any(not -(2**31) <= o.constant < 2**31 for o in operations):
        raise Unsupported("its constant exceeds int32, where torch wraps it around")
    out = builder.result(node, dtypes=_WHOLE)
    exact = [dataclasses.replace(o, constant=float(o.constant)) for o in operations]
    emit_pointwise(builder, values, out, exact, [], Kind.INTEGER)
    builder.values[node] = out


def _whole(node: fx.Node) -> bool:
    held = node.meta.get("val")
    return isinstance(held, torch.Tensor) and held.dtype in _WHOLE


def either(whole: Rule, target: Any) -> None:
    """Registers a rule for integers and masks. It hands other dtypes to the rule that was registered before."""
    floating = RULES.get(target)

    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        if _whole(node):
            whole(builder, node)
        elif floating is not None:
            floating(builder, node)
        else:
            raise Unsupported(f"its result is {node.meta['val'].dtype}")

    rule(target, replaces=floating is not None)(lower)


def _binary(code: Op, with_constant: Op | None, negate: bool = False) -> Rule:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        left, right = node.args[0], node.args[1]
        if node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
            raise Unsupported("its alpha is not 1")
        if isinstance(right, int) and with_constant is not None:
            return lower_whole(builder, node, [left], [Operation(with_constant, 0, 0, -right if negate else right)])
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            raise Unsupported("its constant is not an integer")
        return lower_whole(builder, node, [left, right], [Operation(code, 0, 1)])

    return lower


either(_binary(Op.ADD, Op.ADD_C), _aten.add.Tensor)
either(_binary(Op.SUB, Op.ADD_C, negate=True), _aten.sub.Tensor)
either(_binary(Op.MUL, Op.MUL_C), _aten.mul.Tensor)
for _target in BITWISE_ANDS:
    rule(_target)(_binary(Op.AND, None))
for _target in BITWISE_ORS:
    rule(_target)(_binary(Op.OR, None))


@rule(_aten.logical_and.default, _aten.logical_or.default)
def _logical(builder: PlanBuilder, node: fx.Node) -> None:
    """Logical operators of integers: a number other than zero is true."""
    code = Op.AND if node.target is _aten.logical_and.default else Op.OR
    operations = [Operation(Op.NOT_EQUAL_C, 0, 0, 0.0), Operation(Op.NOT_EQUAL_C, 1, 0, 0.0), Operation(code, -1, -2)]
    lower_whole(builder, node, list(node.args), operations)


def lower_whole_remainder(builder: PlanBuilder, node: fx.Node) -> None:
    """Computes the remainder of integers by a constant."""
    modulus = node.args[1]
    if not isinstance(modulus, int) or modulus == 0 or not _whole(node):
        raise Unsupported("its operands are not integers, or its divisor varies or is zero")
    lower_whole(builder, node, [node.args[0]], [Operation(Op.FLOOR_REMAINDER_C, 0, 0, modulus)])


def _clamp(builder: PlanBuilder, node: fx.Node) -> None:
    low: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    high: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    operations: list[Operation] = []
    for code, bound in ((Op.CLAMP_LOW, low), (Op.CLAMP_HIGH, high)):
        if bound is None:
            continue
        if not isinstance(bound, int):
            raise Unsupported("its bounds are not integers")
        operations.append(Operation(code, -1 if operations else 0, 0, bound))
    lower_whole(builder, node, [node.args[0]], operations)


either(_clamp, _aten.clamp.default)
either(_clamp, _aten.clamp_min.default)


def _cast(builder: PlanBuilder, node: fx.Node) -> None:
    """Casts to integers or a mask. Floating-point numbers lose their fraction; in a mask, numbers other than zero are true."""
    if set(node.kwargs) - {"dtype", "non_blocking", "copy"}:
        raise Unsupported("it changes more than the dtype")
    source = node.args[0]
    if node.meta["val"].dtype is torch.bool and builder.dtype(builder.value(source)) is torch.float32:
        return lower_pointwise(builder, node, [source], [Operation(Op.NOT_EQUAL_C, 0, 0, 0.0)])
    narrow = node.meta["val"].dtype is torch.int32 and builder.dtype(builder.value(source)) is torch.float32
    code = Op.FLOAT_TO_INT32 if narrow else Op.COPY
    return lower_whole(builder, node, [source], [Operation(code, 0)], (*_WHOLE, torch.float32))


either(_cast, _aten.to.dtype)
either(_cast, _aten._to_copy.default)


def emit_integer_sum(builder: PlanBuilder, node: fx.Node, value: Value) -> None:
    """Adds the sum of integers or masks over neighbouring dimensions."""
    if builder.dtype(value) not in _WHOLE or node.meta["val"].dtype is not torch.int64:
        raise Unsupported(f"it sums {builder.dtype(value)}")
    given: Any = node.args[1] if len(node.args) > 1 else None
    rank = len(value.dims)
    dims = sorted({d % rank for d in (given or range(rank))})
    if any(value.dims[d].batch for d in dims) or dims != list(range(dims[0], dims[-1] + 1)):
        raise Unsupported("it sums over the batch, or over dimensions that are not neighbours")
    groups = three_runs(value, dims)
    if groups is None:
        value = compact(builder, value)
        groups = three_runs(value, dims)
        assert groups is not None  # it is contiguous now
    out = builder.result(node, dtypes=(torch.int64,))
    outer, _, inner = groups
    source = view(value, list(groups))
    views, ints = {IntegerSumView.INPUT: source}, {IntegerSumInt.RUNNING: 0}
    builder.emit(Kind.INTEGER_SUM, out, [(outer[0], inner[0]), (inner[0], 1)], views, ints=ints)
    builder.values[node] = out


@rule(_aten.cumsum.default)
def _running_sum(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    if builder.dtype(value) not in _WHOLE or node.meta["val"].dtype is not torch.int64:
        raise Unsupported("its input or its result does not hold integers")
    dim = argument_of(node, 1, int) % len(value.dims)
    groups = three_runs(value, [dim])
    if value.dims[dim].batch or groups is None:
        raise Unsupported("it runs over the batch, or over elements that are not evenly spaced")
    out = builder.result(node, dtypes=(torch.int64,))
    target = three_runs(out, [dim])
    assert target is not None
    views = {IntegerSumView.INPUT: view(value, list(groups))}
    builder.emit(Kind.INTEGER_SUM, out, target, views, ints={IntegerSumInt.RUNNING: 1})
    builder.values[node] = out


def emit_take(
    builder: PlanBuilder,
    node: fx.Node,
    source: Value,
    index: Value,
    strides: Sequence[tuple[int, int]],
    step: int,
    limit: int,
    wraps: bool,
) -> None:
    """Adds a step that picks elements by index.

    Args:
        builder: The plan.
        node: The node of the result.
        source: The elements.
        index: Their positions.
        strides: For each dimension of the output, the strides of source and index.
        step: The source's stride along the indexed dimension.
        limit: The size of that dimension.
        wraps: Whether negative indices count from the end.
    """
    if builder.dtype(index) not in (torch.int64, torch.int32):
        raise Unsupported(f"its index is {builder.dtype(index)}")
    if builder.dtype(source) is not node.meta["val"].dtype:
        raise Unsupported("it changes the dtype")
    out = builder.result(node, dtypes=COPIED)
    runs = joint_runs(out, [[d.stride, s, i] for d, (s, i) in zip(out.dims, strides, strict=True)])
    if not runs or runs[-1][1][2] != 0:
        runs.append((1, [1, 1, 0]))  # the innermost dimension is copied as one block: the index must not vary along it
    if len(runs) > Size.RANK:
        raise Unsupported("it has too many separate dimensions")
    runs = [(1, [0, 0, 0])] * (Size.RANK - len(runs)) + runs
    views = {
        TakeView.SOURCE: View(source.slot, source.offset, tuple((n, s[1]) for n, s in runs)),
        TakeView.INDEX: View(index.slot, index.offset, tuple((n, s[2]) for n, s in runs)),
    }
    ints = {TakeInt.STRIDE: step, TakeInt.LIMIT: limit, TakeInt.WRAPS: int(wraps)}
    builder.emit(Kind.TAKE, out, [(n, s[0]) for n, s in runs], views, ints=ints)
    builder.emitted[-1].reads = node
    builder.values[node] = out


@rule(_aten.index.Tensor)
def _index(builder: PlanBuilder, node: fx.Node) -> None:
    """Picks elements along one dimension. Negative indices count from the end."""
    given: Any = node.args[1]
    chosen = [(dim, index) for dim, index in enumerate(given) if index is not None]
    if chosen[0][0] == 0 and numbers_rows(builder, builder.value(chosen[0][1])):
        return _emit_own_rows(builder, node, chosen)
    if len(chosen) != 1:
        raise Unsupported("it indexes several dimensions")
    _emit_pick(builder, node, *chosen[0], wraps=True)


def _emit_own_rows(builder: PlanBuilder, node: fx.Node, chosen: list[tuple[int, Any]]) -> None:
    """`x[arange(B), index]`: every row picks its own elements. The dimensions of the indices come first."""
    source, shape = builder.value(node.args[0]), builder.shape(node)
    if not source.dims[0].batch or source.dims[0].size != 1 or len(chosen) > 2:
        raise Unsupported("it indexes several dimensions")
    if len(chosen) == 1:
        if len(builder.value(chosen[0][1]).dims) != 1:
            raise Unsupported("it repeats the batch")
        builder.values[node] = source
        return
    dim, index = chosen[1][0], builder.value(chosen[1][1])
    rest = [(d.stride, 0) for i, d in enumerate(source.dims) if i not in (0, dim)]
    lead = shape[: len(shape) - len(rest)]
    own = [Dim(1, 0)] * (len(lead) - len(index.dims)) + list(index.dims)
    if any(d.batch and not wanted.batch for d, wanted in zip(own, lead, strict=True)):
        raise Unsupported("the batch of its index is in another dimension than that of its result")
    strides = [*((0, 0 if d.size == 1 else d.stride) for d in own), *rest]
    held = source.dims[dim]
    emit_take(builder, node, source, index, strides, held.stride, held.size, True)


@rule(_aten.index_select.default)
def _index_select(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_pick(builder, node, argument_of(node, 1, int), node.args[2], wraps=False)


def _emit_pick(builder: PlanBuilder, node: fx.Node, dim: int, ids: Any, *, wraps: bool) -> None:
    source, index = builder.value(node.args[0]), builder.value(ids)
    dim %= len(source.dims)
    held = source.dims[dim]
    if held.batch:
        raise Unsupported("it indexes over the batch")
    if source.batched and index.batched:
        raise Unsupported("both its source and its index have the batch")
    others = [(d.stride, 0) for d in source.dims]
    strides = [*others[:dim], *((0, d.stride) for d in index.dims), *others[dim + 1 :]]
    emit_take(builder, node, source, index, strides, held.stride, held.size, wraps)


@rule(_aten.gather.default)
def _gather(builder: PlanBuilder, node: fx.Node) -> None:
    source, index = builder.value(node.args[0]), builder.value(node.args[2])
    dim = argument_of(node, 1, int) % len(source.dims)
    if source.dims[dim].batch or any(a.batch != b.batch for a, b in zip(source.dims, index.dims, strict=True)):
        raise Unsupported("it gathers over the batch")
    strides = [
        (0 if i == dim else s.stride, x.stride) for i, (s, x) in enumerate(zip(source.dims, index.dims, strict=True))
    ]
    held: Dim = source.dims[dim]
    emit_take(builder, node, source, index, strides, held.stride, held.size, False)
