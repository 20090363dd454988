"""Masks: comparisons, negation, triangles, and selection by a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Op
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.integer import lower_whole
from recfx.targets.native.rules.pointwise import COPIED, emit_pointwise, lower_pointwise, require_floating
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported

_aten = torch.ops.aten

#: Comparisons with a number.
_COMPARISONS = {
    "eq": Op.EQUAL_C,
    "ne": Op.NOT_EQUAL_C,
    "gt": Op.GREATER_C,
    "ge": Op.AT_LEAST_C,
    "lt": Op.LESS_C,
    "le": Op.AT_MOST_C,
}


def _comparison(code: Op) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        constant: Any = node.args[1]
        # As float32, an integer beyond 2^24 is rounded, but never to a number below 2^24.
        if not isinstance(constant, int | float) or not abs(constant) < 2**24:
            raise Unsupported("it compares with a tensor or a large number")
        if float(torch.tensor(float(constant), dtype=torch.float32)) != float(constant):
            raise Unsupported("its constant has no exact float32 value")
        lower_pointwise(builder, node, [node.args[0]], [Operation(code, 0, 0, float(constant))])

    return lower


for _name, _code in _COMPARISONS.items():
    rule(getattr(_aten, _name).Scalar)(_comparison(_code))


def _between_tensors(code: Op) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        operands = list(node.args)
        if not all(isinstance(o, fx.Node) for o in operands):
            raise Unsupported("it does not compare with a tensor")
        floats = any(builder.dtype(builder.value(o)) is torch.float32 for o in operands)
        (lower_pointwise if floats else lower_whole)(builder, node, operands, [Operation(code, 0, 1)])

    return lower


#: Comparisons of two tensors.
_OF_TENSORS = {
    "eq": Op.EQUAL,
    "ne": Op.NOT_EQUAL,
    "gt": Op.GREATER,
    "ge": Op.AT_LEAST,
    "lt": Op.LESS,
    "le": Op.AT_MOST,
}
for _name, _code in _OF_TENSORS.items():
    rule(getattr(_aten, _name).Tensor)(_between_tensors(_code))


@rule(_aten.logical_not.default, _aten.bitwise_not.default)
def _not(builder: PlanBuilder, node: fx.Node) -> None:
    held = builder.dtype(builder.value(node.args[0]))
    if node.target is _aten.logical_not.default and held is not torch.bool:
        if held is torch.float32:
            return lower_pointwise(builder, node, [node.args[0]], [Operation(_COMPARISONS["eq"], 0, 0, 0.0)])
        return lower_whole(builder, node, [node.args[0]], [Operation(Op.NOT, 0)])
    if node.meta["val"].dtype is not torch.bool or held is not torch.bool:
        raise Unsupported("it inverts the bits of integers")
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.NOT, 0)])


def _number(builder: PlanBuilder, given: Any) -> float:
    """A number, or the number in a constant tensor."""
    if isinstance(given, int | float):
        return float(given)
    tensor = builder.tensor(given)
    if tensor.numel() != 1:
        raise Unsupported("it fills with more than one number")
    return float(tensor)


@rule(_aten.masked_fill.Scalar, _aten.masked_fill.Tensor, _aten.where.ScalarSelf)
def _masked_fill(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    order = (0, 2, 1) if node.target is _aten.where.ScalarSelf else (1, 0, 2)
    mask, x, given = (node.args[i] for i in order)
    lower_pointwise(builder, node, [mask, x], [Operation(Op.MASKED_FILL, 0, 1, _number(builder, given))])


@rule(_aten.where.self)
def _where(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    lower_pointwise(builder, node, list(node.args), [Operation(Op.WHERE, 0, 1, other=2)])


@rule(_aten.where.ScalarOther)
def _where_not_number(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    mask, other, number = node.args
    operations = [Operation(Op.NOT, 0), Operation(Op.MASKED_FILL, -1, 1, _number(builder, number))]
    lower_pointwise(builder, node, [mask, other], operations)


@rule(_aten.where.Scalar)
def _where_numbers(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    mask, number, other = node.args
    # The mask times zero is a register of zeros, to which the second number is added.
    operations = [
        Operation(Op.MUL_C, 0, 0, 0.0),
        Operation(Op.ADD_C, -1, 0, _number(builder, other)),
        Operation(Op.MASKED_FILL, 0, -2, _number(builder, number)),
    ]
    lower_pointwise(builder, node, [mask], operations)


def _triangle(builder: PlanBuilder, node: fx.Node) -> None:
    """Sets elements beyond the diagonal to zero, including NaN and infinities."""
    held: torch.Tensor = node.meta["val"]
    rows, columns = held.shape[-2:]
    diagonal: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("diagonal", 0)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Unsupported("its rows or columns are the batch")
    make = torch.tril if node.target is _aten.tril.default else torch.triu
    kept = builder.constant(make(torch.ones(rows, columns, dtype=torch.bool), diagonal))
    value = builder.value(node.args[0])
    whole = held.dtype is not torch.float32
    out = builder.result(node, dtypes=COPIED)
    if whole:
        emit_pointwise(builder, [value, kept], out, [Operation(Op.MUL, 0, 1)], [], Kind.INTEGER)
    else:
        operations = [Operation(Op.NOT, 1), Operation(Op.MASKED_FILL, -1, 0, 0.0)]
        emit_pointwise(builder, [value, kept], out, operations, [])
    builder.values[node] = out


rule(_aten.tril.default, _aten.triu.default)(_triangle)
