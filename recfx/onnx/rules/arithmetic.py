"""Arithmetic of two operands, and of one operand with numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.onnx.rule import Call, rule
from recfx.onnx.types import WHOLE

_aten = torch.ops.aten


def scaled(call: Call, value: str, argument: Any, dtype: torch.dtype) -> str:
    """A value times the number `alpha` of `add` and `sub`."""
    if argument == 1:
        return value
    return call.graph.op("Mul", value, call.as_type(argument, dtype))


def _operands(call: Call, *names: str, dtype: torch.dtype | None = None) -> list[str]:
    """Arguments in the type of the result."""
    wanted = call.out.dtype if dtype is None else dtype
    return [call.as_type(call[name], wanted) for name in names]


@rule(_aten.add.Tensor, _aten.add.Scalar)
def add(call: Call) -> str:
    """`self + alpha * other`; of truth values, whether one is true."""
    dtype = call.out.dtype
    left, right = _operands(call, "self", "other")
    if dtype is torch.bool:
        return call.graph.op("Or", left, right)
    return call.graph.op("Add", left, scaled(call, right, call["alpha"], dtype))


@rule(_aten.sub.Tensor, _aten.sub.Scalar)
def sub(call: Call) -> str:
    """`self - alpha * other`."""
    left, right = _operands(call, "self", "other")
    return call.graph.op("Sub", left, scaled(call, right, call["alpha"], call.out.dtype))


@rule(_aten.rsub.Tensor, _aten.rsub.Scalar)
def rsub(call: Call) -> str:
    """`other - alpha * self`."""
    left, right = _operands(call, "self", "other")
    return call.graph.op("Sub", right, scaled(call, left, call["alpha"], call.out.dtype))


@rule(_aten.mul.Tensor, _aten.mul.Scalar)
def mul(call: Call) -> str:
    """A product; of truth values, whether both are true."""
    return call.graph.op("And" if call.out.dtype is torch.bool else "Mul", *_operands(call, "self", "other"))


@rule(_aten.div.Tensor, _aten.div.Scalar, _aten.true_divide.Tensor)
def div(call: Call) -> str:
    """A quotient of floating-point numbers."""
    return call.graph.op("Div", *_operands(call, "self", "other"))


@rule(_aten.div.Tensor_mode, _aten.div.Scalar_mode)
def div_rounded(call: Call) -> str:
    """A quotient rounded towards zero or down."""
    mode = call["rounding_mode"]
    if mode is None:
        return div(call)
    if mode == "floor":
        return floor_divide(call)
    quotient = call.graph.op("Div", *_operands(call, "self", "other"))
    if call.out.dtype in WHOLE:
        return quotient
    return _truncated(call, quotient)


def _truncated(call: Call, value: str) -> str:
    """A floating-point value rounded towards zero."""
    return call.graph.op("Mul", call.graph.op("Sign", value), call.graph.op("Floor", call.graph.op("Abs", value)))


@rule(_aten.floor_divide.default, _aten.floor_divide.Scalar)
def floor_divide(call: Call) -> str:
    """A quotient rounded down."""
    left, right = _operands(call, "self", "other")
    if call.out.dtype not in WHOLE:
        return call.graph.op("Floor", call.graph.op("Div", left, right))
    rest = call.graph.op("Mod", left, right)
    return call.graph.op("Div", call.graph.op("Sub", left, rest), right)


@rule(_aten.remainder.Tensor, _aten.remainder.Scalar)
def remainder(call: Call) -> str:
    """The rest of a division; it has the sign of the divisor."""
    left, right = _operands(call, "self", "other")
    if call.out.dtype in WHOLE:
        return call.graph.op("Mod", left, right)
    rest = call.graph.op("Mod", left, right, fmod=1)
    opposed = call.graph.op(
        "Less",
        call.graph.op("Mul", call.graph.op("Sign", rest), call.graph.op("Sign", right)),
        call.graph.scalar(0, call.out.dtype),
    )
    return call.graph.op("Where", opposed, call.graph.op("Add", rest, right), rest)


@rule(_aten.fmod.Tensor, _aten.fmod.Scalar)
def fmod(call: Call) -> str:
    """The rest of a division; it has the sign of the dividend."""
    return call.graph.op("Mod", *_operands(call, "self", "other"), fmod=1)


@rule(_aten.pow.Tensor_Tensor, _aten.pow.Tensor_Scalar, _aten.pow.Scalar)
def power(call: Call) -> str:
    """A power; squares, cubes and roots are written as such."""
    exponent, dtype = call["exponent"], call.out.dtype
    base = call.as_type(call["self"], dtype)
    if exponent in (1, 2, 3) and not isinstance(exponent, fx.Node):
        made = base
        for _ in range(int(exponent) - 1):
            made = call.graph.op("Mul", made, base)
        return made
    if exponent == 0.5:
        return call.graph.op("Sqrt", base)
    if exponent == -1 and dtype not in WHOLE:
        return call.graph.op("Reciprocal", base)
    return call.graph.op("Pow", base, call.as_type(exponent, dtype))


@rule(_aten.maximum.default, _aten.max.other)
def maximum(call: Call) -> str:
    """The larger operand; of truth values, whether one is true."""
    return call.graph.op("Or" if call.out.dtype is torch.bool else "Max", *_operands(call, "self", "other"))


@rule(_aten.minimum.default, _aten.min.other)
def minimum(call: Call) -> str:
    """The smaller operand; of truth values, whether both are true."""
    return call.graph.op("And" if call.out.dtype is torch.bool else "Min", *_operands(call, "self", "other"))


@rule(_aten.clamp.default, _aten.clamp.Tensor, _aten.clip.default)
def clamp(call: Call) -> str:
    """The values within bounds; either bound may be absent. `Clip` would turn infinities into the largest finite number."""
    made, dtype = call.as_type(call["self"], call.out.dtype), call.out.dtype
    if call["min"] is not None:
        made = call.graph.op("Max", made, call.as_type(call["min"], dtype))
    if call["max"] is not None:
        made = call.graph.op("Min", made, call.as_type(call["max"], dtype))
    return made


@rule(_aten.clamp_min.default, _aten.clamp_min.Tensor)
def clamp_min(call: Call) -> str:
    """The values, at least a bound."""
    return call.graph.op("Max", *_operands(call, "self", "min"))


@rule(_aten.clamp_max.default, _aten.clamp_max.Tensor)
def clamp_max(call: Call) -> str:
    """The values, at most a bound."""
    return call.graph.op("Min", *_operands(call, "self", "max"))


@rule(_aten.addcmul.default)
def addcmul(call: Call) -> str:
    """`self + value * tensor1 * tensor2`."""
    base, first, second = _operands(call, "self", "tensor1", "tensor2")
    product = scaled(call, call.graph.op("Mul", first, second), call["value"], call.out.dtype)
    return call.graph.op("Add", base, product)


@rule(_aten.addcdiv.default)
def addcdiv(call: Call) -> str:
    """`self + value * tensor1 / tensor2`."""
    base, first, second = _operands(call, "self", "tensor1", "tensor2")
    quotient = call.graph.op("Div", scaled(call, first, call["value"], call.out.dtype), second)
    return call.graph.op("Add", base, quotient)


@rule(_aten.lerp.Scalar, _aten.lerp.Tensor)
def lerp(call: Call) -> str:
    """`self + weight * (end - self)`."""
    start, end, weight = _operands(call, "self", "end", "weight")
    return call.graph.op("Add", start, call.graph.op("Mul", weight, call.graph.op("Sub", end, start)))
