"""Element-wise functions beyond arithmetic, each one operation of a pointwise program: of one tensor, and of two."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.pointwise import DIV, DIV_C, MAXIMUM, MINIMUM, lower_pointwise, require_floating
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported

_aten = torch.ops.aten

#: The numbers of csrc/elementary.inl.
LOG1P, EXPM1, SIGN, IS_FINITE, IS_NAN, IS_INFINITE = range(64, 70)
SOFTPLUS, MISH, LOG_SIGMOID, HARD_SHRINK, SOFT_SHRINK, LOGIT = range(90, 96)
ARC_TANGENT2 = 112
BASE_POWER, REMAINDER_BY, FLOOR_DIVIDED_BY, TRUNCATED_QUOTIENT = range(123, 127)

#: Functions of one float32 tensor that give float32.
UNARY: dict[Any, int] = {
    _aten.log1p.default: LOG1P,
    _aten.expm1.default: EXPM1,
    _aten.special_expm1.default: EXPM1,
    _aten.sign.default: SIGN,
    _aten.sgn.default: SIGN,
    _aten.sin.default: 70,
    _aten.cos.default: 71,
    _aten.tan.default: 72,
    _aten.atan.default: 73,
    _aten.asin.default: 74,
    _aten.acos.default: 75,
    _aten.sinh.default: 76,
    _aten.cosh.default: 77,
    _aten.asinh.default: 78,
    _aten.acosh.default: 79,
    _aten.atanh.default: 80,
    _aten.log2.default: 81,
    _aten.log10.default: 82,
    _aten.exp2.default: 83,
    _aten.floor.default: 84,
    _aten.ceil.default: 85,
    _aten.round.default: 86,
    _aten.trunc.default: 87,
    _aten.fix.default: 87,
    _aten.frac.default: 88,
    _aten.mish.default: MISH,
    _aten.log_sigmoid.default: LOG_SIGMOID,
}

#: Functions of one float32 tensor that give a mask.
PREDICATES: dict[Any, int] = {
    _aten.isfinite.default: IS_FINITE,
    _aten.isnan.default: IS_NAN,
    _aten.isinf.default: IS_INFINITE,
    _aten.signbit.default: 89,
}

#: Functions of two float32 tensors.
BINARY: dict[Any, int] = {
    _aten.atan2.default: ARC_TANGENT2,
    _aten.arctan2.default: ARC_TANGENT2,
    _aten.pow.Tensor_Tensor: 113,
    _aten.fmod.Tensor: 114,
    _aten.remainder.Tensor: 115,
    _aten.floor_divide.default: 116,
    _aten.hypot.default: 117,
    _aten.fmax.default: 118,
    _aten.fmin.default: 119,
    _aten.copysign.Tensor: 120,
    _aten.xlogy.Tensor: 121,
    _aten.logaddexp.default: 122,
    _aten.max.other: MAXIMUM,
    _aten.min.other: MINIMUM,
    _aten.true_divide.Tensor: DIV,
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
        return lower_pointwise(builder, node, [left], [Operation(FLOOR_DIVIDED_BY, 0, 0, float(right))])
    lower_pointwise(builder, node, [left, right], [Operation(BINARY[node.target], 0, 1)])


@rule(_aten.div.Tensor_mode, _aten.div.Scalar_mode)
def _rounded_quotient(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    left, right = node.args[:2]
    mode = node.kwargs.get("rounding_mode", node.args[2] if len(node.args) > 2 else None)
    floor = mode == "floor"
    if mode not in ("floor", "trunc"):
        raise Unsupported(f"it rounds by {mode!r}")
    if not isinstance(right, int | float):
        code = BINARY[_aten.floor_divide.default] if floor else TRUNCATED_QUOTIENT
        return lower_pointwise(builder, node, [left, right], [Operation(code, 0, 1)])
    if floor:
        return lower_pointwise(builder, node, [left], [Operation(FLOOR_DIVIDED_BY, 0, 0, float(right))])
    operations = [Operation(DIV_C, 0, 0, float(right)), Operation(UNARY[_aten.trunc.default], -1)]
    lower_pointwise(builder, node, [left], operations)


@rule(_aten.pow.Scalar)
def _power_of_a_number(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    base: Any = node.args[0]
    lower_pointwise(builder, node, [node.args[1]], [Operation(BASE_POWER, 0, 0, float(base))])


@rule(_aten.clamp.Tensor, _aten.clamp_min.Tensor, _aten.clamp_max.Tensor)
def _clamp_by_tensors(builder: PlanBuilder, node: fx.Node) -> None:
    """As in torch, NaN in any of the tensors passes through."""
    names = ["min", "max"]
    if node.target in (_aten.clamp_min.Tensor, _aten.clamp_max.Tensor):
        names = ["min"] if node.target is _aten.clamp_min.Tensor else ["max"]
    given: dict[str, Any] = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    bounds = [(name, given[name]) for name in ("min", "max") if given.get(name) is not None]
    held = [node.args[0], *(bound for _, bound in bounds)]
    codes = {"min": MAXIMUM, "max": MINIMUM}
    operations: list[Operation] = []
    for number, (name, _) in enumerate(bounds):
        operations.append(Operation(codes[name], -1 if operations else 0, number + 1))
    _lower_by_dtype(builder, node, held, operations)


def _lower_by_dtype(builder: PlanBuilder, node: fx.Node, operands: list[Any], operations: list[Operation]) -> None:
    """Of whole numbers in 64-bit integers, of others in float32: the operations have the same numbers."""
    from recfx.targets.native.rules.integer import lower_whole

    if node.meta["val"].dtype is torch.float32:
        return lower_pointwise(builder, node, operands, operations)
    lower_whole(builder, node, operands, operations)


__all__ = ["BINARY", "PREDICATES", "UNARY"]
