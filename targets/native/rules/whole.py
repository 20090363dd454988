"""Element-wise functions of integers and masks: signs, quotients, selection, extremes, bits of masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import MASKED_FILLS
from recfx.kernels.codes import Op
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.integer import either, lower_whole, lower_whole_remainder
from recfx.targets.native.rules.pointwise import lower_pointwise
from recfx.targets.native.rules.registry import Rule, rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported

_aten = torch.ops.aten


def _of_one(*operations: Operation) -> Rule:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        lower_whole(builder, node, [node.args[0]], operations)

    return lower


either(_of_one(Operation(Op.C_MINUS, 0, 0, 0.0)), _aten.neg.default)
either(_of_one(Operation(Op.MUL, 0, 0)), _aten.square.default)
either(_of_one(Operation(Op.ABSOLUTE, 0)), _aten.abs.default)
for _target in (_aten.sign.default, _aten.sgn.default):
    either(_of_one(Operation(Op.WHOLE_SIGN, 0)), _target)
for _target in (_aten.floor.default, _aten.ceil.default, _aten.round.default, _aten.trunc.default):
    either(_of_one(), _target)


def _of_two(code: Op) -> Rule:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        lower_whole(builder, node, list(node.args[:2]), [Operation(code, 0, 1)])

    return lower


for _target in (_aten.maximum.default, _aten.max.other, _aten.fmax.default):
    either(_of_two(Op.MAXIMUM), _target)
for _target in (_aten.minimum.default, _aten.min.other, _aten.fmin.default):
    either(_of_two(Op.MINIMUM), _target)
for _target in (_aten.__xor__.Tensor, _aten.bitwise_xor.Tensor):
    rule(_target)(_of_two(Op.XOR))


@rule(_aten.logical_xor.default)
def _differs(builder: PlanBuilder, node: fx.Node) -> None:
    operations = [Operation(Op.NOT_EQUAL_C, 0, 0, 0.0), Operation(Op.NOT_EQUAL_C, 1, 0, 0.0), Operation(Op.XOR, -1, -2)]
    lower_whole(builder, node, list(node.args), operations)


def _with_bits(code: Op) -> Rule:
    """A bitwise operator of integers or a mask and a number."""

    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        number = node.args[1]
        if not isinstance(number, int):
            raise Unsupported("its number is not an integer")
        operations = [Operation(Op.CONSTANT, 0, 0, number), Operation(code, 0, -1)]
        lower_whole(builder, node, [node.args[0]], operations)

    return lower


for _code, _targets in (
    (Op.AND, (_aten.__and__.Scalar, _aten.bitwise_and.Scalar)),
    (Op.OR, (_aten.__or__.Scalar, _aten.bitwise_or.Scalar)),
    (Op.XOR, (_aten.__xor__.Scalar, _aten.bitwise_xor.Scalar)),
):
    rule(*_targets)(_with_bits(_code))


def _shift(code: Op) -> Rule:
    """A shift by a fixed number of bits, which multiplies by a power of two or divides by one and rounds down."""

    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        bits, kind = node.args[1], node.meta["val"].dtype
        if not isinstance(bits, int) or bits < 0 or kind is torch.bool:
            raise Unsupported("it shifts a mask, or by bits that are not a fixed number from 0 on")
        lower_whole(builder, node, [node.args[0]], [Operation(code, 0, 0, 2**bits)])

    return lower


rule(_aten.__lshift__.Scalar, _aten.bitwise_left_shift.Tensor_Scalar)(_shift(Op.MUL_C))
rule(_aten.__rshift__.Scalar, _aten.bitwise_right_shift.Tensor_Scalar)(_shift(Op.FLOOR_QUOTIENT_C))


def _from_number(builder: PlanBuilder, node: fx.Node) -> None:
    number: Any = node.args[1]
    if not isinstance(number, int) or len(node.args) > 2 or node.kwargs.get("alpha", 1) != 1:
        raise Unsupported("its number is not an integer, or its alpha is not 1")
    lower_whole(builder, node, [node.args[0]], [Operation(Op.C_MINUS, 0, 0, number)])


either(_from_number, _aten.rsub.Scalar)


@rule(_aten.remainder.Scalar)
def _remainder(builder: PlanBuilder, node: fx.Node) -> None:
    divisor = node.args[1]
    if node.meta["val"].dtype is torch.float32 and isinstance(divisor, int | float):
        return lower_pointwise(builder, node, [node.args[0]], [Operation(Op.REMAINDER_BY, 0, 0, float(divisor))])
    lower_whole_remainder(builder, node)


def _quotient(builder: PlanBuilder, node: fx.Node) -> None:
    """A division by a constant that is not zero. torch raises for a zero among a tensor's elements."""
    divisor: Any = node.args[1]
    mode: Any = "floor"
    if node.target is not _aten.floor_divide.default:
        mode = node.kwargs.get("rounding_mode", node.args[2] if len(node.args) > 2 else None)
    if not isinstance(divisor, int) or isinstance(divisor, bool) or divisor == 0:
        raise Unsupported("its divisor varies, or is zero")
    code = Op.FLOOR_QUOTIENT_C if mode == "floor" else Op.QUOTIENT_C
    lower_whole(builder, node, [node.args[0]], [Operation(code, 0, 0, divisor)])


for _target in (_aten.floor_divide.default, _aten.div.Tensor_mode, _aten.div.Scalar_mode):
    either(_quotient, _target)


def _clamp_high(builder: PlanBuilder, node: fx.Node) -> None:
    bound: Any = node.args[1]
    if not isinstance(bound, int):
        raise Unsupported("its bound is not an integer")
    lower_whole(builder, node, [node.args[0]], [Operation(Op.CLAMP_HIGH, 0, 0, bound)])


either(_clamp_high, _aten.clamp_max.default)


def _filled(builder: PlanBuilder, node: fx.Node) -> None:
    """masked_fill(x, mask, number) and where(mask, number, x)."""
    order = (0, 2, 1) if node.target is _aten.where.ScalarSelf else (1, 0, 2)
    mask, x, number = (node.args[i] for i in order)
    lower_whole(builder, node, [mask, x], [Operation(Op.MASKED_FILL, 0, 1, whole_number(builder, number))])


for _target in (*MASKED_FILLS, _aten.where.ScalarSelf):
    either(_filled, _target)


def whole_number(builder: PlanBuilder, given: Any) -> float:
    """An integer, or the integer in a constant tensor."""
    number = given if isinstance(given, int | float) else builder.tensor(given)
    if isinstance(number, torch.Tensor):
        if number.numel() != 1:
            raise Unsupported("it fills with more than one number")
        number = number.item()
    if number != int(number):
        raise Unsupported("it fills with a number that is not an integer")
    return number


def _chosen(builder: PlanBuilder, node: fx.Node) -> None:
    lower_whole(builder, node, list(node.args), [Operation(Op.WHERE, 0, 1, other=2)])


def _chosen_or_number(builder: PlanBuilder, node: fx.Node) -> None:
    mask, x, number = node.args
    operations = [Operation(Op.NOT, 0), Operation(Op.MASKED_FILL, -1, 1, whole_number(builder, number))]
    lower_whole(builder, node, [mask, x], operations)


def _one_of_two_numbers(builder: PlanBuilder, node: fx.Node) -> None:
    mask, number, other = node.args
    operations = [
        Operation(Op.CONSTANT, 0, 0, whole_number(builder, other)),
        Operation(Op.MASKED_FILL, 0, -1, whole_number(builder, number)),
    ]
    lower_whole(builder, node, [mask], operations)


either(_chosen, _aten.where.self)
either(_chosen_or_number, _aten.where.ScalarOther)
either(_one_of_two_numbers, _aten.where.Scalar)
