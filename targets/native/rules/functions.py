"""Element-wise functions of one or two tensors, each one operation of a pointwise program."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Op
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.pointwise import lower_pointwise, require_floating
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported

_aten = torch.ops.aten

#: Functions of one float32 tensor that give float32.
UNARY: dict[Any, Op] = {
    _aten.log1p.default: Op.LOG1P,
    _aten.expm1.default: Op.EXPM1,
    _aten.special_expm1.default: Op.EXPM1,
    _aten.sign.default: Op.SIGN,
    _aten.sgn.default: Op.SIGN,
    _aten.sin.default: Op.SINE,
    _aten.cos.default: Op.COSINE,
    _aten.tan.default: Op.TANGENT,
    _aten.atan.default: Op.ARC_TANGENT,
    _aten.asin.default: Op.ARC_SINE,
    _aten.acos.default: Op.ARC_COSINE,
    _aten.sinh.default: Op.HYPERBOLIC_SINE,
    _aten.cosh.default: Op.HYPERBOLIC_COSINE,
    _aten.asinh.default: Op.AREA_SINE,
    _aten.acosh.default: Op.AREA_COSINE,
    _aten.atanh.default: Op.AREA_TANGENT,
    _aten.log2.default: Op.LOG2,
    _aten.log10.default: Op.LOG10,
    _aten.exp2.default: Op.EXP2,
    _aten.floor.default: Op.FLOOR,
    _aten.ceil.default: Op.CEILING,
    _aten.round.default: Op.ROUND,
    _aten.trunc.default: Op.TRUNCATE,
    _aten.fix.default: Op.TRUNCATE,
    _aten.frac.default: Op.FRACTION,
    _aten.mish.default: Op.MISH,
    _aten.log_sigmoid.default: Op.LOG_SIGMOID,
}

#: Functions of one float32 tensor that give a mask.
PREDICATES: dict[Any, Op] = {
    _aten.isfinite.default: Op.IS_FINITE,
    _aten.isnan.default: Op.IS_NAN,
    _aten.isinf.default: Op.IS_INFINITE,
    _aten.signbit.default: Op.SIGN_BIT,
}

#: Functions of two float32 tensors.
BINARY: dict[Any, Op] = {
    _aten.atan2.default: Op.ARC_TANGENT2,
    _aten.arctan2.default: Op.ARC_TANGENT2,
    _aten.pow.Tensor_Tensor: Op.POWER,
    _aten.fmod.Tensor: Op.FLOAT_MODULO,
    _aten.remainder.Tensor: Op.FLOAT_REMAINDER,
    _aten.floor_divide.default: Op.FLOOR_DIVISION,
    _aten.hypot.default: Op.HYPOTENUSE,
    _aten.fmax.default: Op.LARGER_NUMBER,
    _aten.fmin.default: Op.SMALLER_NUMBER,
    _aten.copysign.Tensor: Op.COPY_SIGN,
    _aten.xlogy.Tensor: Op.X_LOG_Y,
    _aten.logaddexp.default: Op.LOG_ADD_EXP,
    _aten.max.other: Op.MAXIMUM,
    _aten.min.other: Op.MINIMUM,
    _aten.true_divide.Tensor: Op.DIV,
}


@rule(*UNARY, *PREDICATES)
def _of_one(builder: PlanBuilder, node: fx.Node) -> None:
    if node.target in UNARY:
        require_floating(node)
    code = UNARY[node.target] if node.target in UNARY else PREDICATES[node.target]
    lower_pointwise(builder, node, [node.args[0]], [Operation(code, 0)])


@rule(*BINARY)
def _of_two(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    left, right = node.args[:2]
    if isinstance(right, int | float) and node.target is _aten.floor_divide.default:
        return lower_pointwise(builder, node, [left], [Operation(Op.FLOOR_DIVIDED_BY, 0, 0, float(right))])
    lower_pointwise(builder, node, [left, right], [Operation(BINARY[node.target], 0, 1)])


@rule(_aten.div.Tensor_mode, _aten.div.Scalar_mode)
def _rounded_quotient(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    left, right = node.args[:2]
    mode = node.kwargs.get("rounding_mode", node.args[2] if len(node.args) > 2 else None)
    floor = mode == "floor"
    if mode not in ("floor", "trunc"):
        raise Unsupported(f"its rounding mode is {mode!r}")
    if not isinstance(right, int | float):
        code = BINARY[_aten.floor_divide.default] if floor else Op.TRUNCATED_QUOTIENT
        return lower_pointwise(builder, node, [left, right], [Operation(code, 0, 1)])
    if floor:
        return lower_pointwise(builder, node, [left], [Operation(Op.FLOOR_DIVIDED_BY, 0, 0, float(right))])
    operations = [Operation(Op.DIV_C, 0, 0, float(right)), Operation(UNARY[_aten.trunc.default], -1)]
    lower_pointwise(builder, node, [left], operations)


@rule(_aten.pow.Scalar)
def _power_of_a_number(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    base: Any = node.args[0]
    lower_pointwise(builder, node, [node.args[1]], [Operation(Op.BASE_POWER, 0, 0, float(base))])


@rule(_aten.clamp.Tensor, _aten.clamp_min.Tensor, _aten.clamp_max.Tensor)
def _clamp_by_tensors(builder: PlanBuilder, node: fx.Node) -> None:
    """Clamps by tensors. As in torch, NaN in one of the tensors gives NaN."""
    names = ["min", "max"]
    if node.target in (_aten.clamp_min.Tensor, _aten.clamp_max.Tensor):
        names = ["min"] if node.target is _aten.clamp_min.Tensor else ["max"]
    given: dict[str, Any] = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    bounds = [(name, given[name]) for name in ("min", "max") if given.get(name) is not None]
    held = [node.args[0], *(bound for _, bound in bounds)]
    codes = {"min": Op.MAXIMUM, "max": Op.MINIMUM}
    operations: list[Operation] = []
    for number, (name, _) in enumerate(bounds):
        operations.append(Operation(codes[name], -1 if operations else 0, number + 1))
    _lower_by_dtype(builder, node, held, operations)


def _lower_by_dtype(builder: PlanBuilder, node: fx.Node, operands: list[Any], operations: list[Operation]) -> None:
    """Computes integers as 64-bit integers, and other numbers as float32. The operations have the same codes."""
    from recfx.targets.native.rules.integer import lower_whole

    if node.meta["val"].dtype is torch.float32:
        return lower_pointwise(builder, node, operands, operations)
    lower_whole(builder, node, operands, operations)


__all__ = ["BINARY", "PREDICATES", "UNARY"]
