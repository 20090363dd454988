"""Comparisons, truth values and selections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.onnx.rule import Call, rule
from recfx.onnx.types import WHOLE, Untranslated

_aten = torch.ops.aten


def common_dtype(call: Call, *names: str) -> torch.dtype:
    """The type in which torch compares the arguments."""
    kinds: list[Any] = []
    for name in names:
        argument = call[name]
        held = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        kinds.append(1 if isinstance(held, torch.SymInt) else held)
    return torch.result_type(*kinds)


def _compare(kind: str, *, negated: bool = False) -> Callable[[Call], str]:
    def compare(call: Call) -> str:
        dtype = common_dtype(call, "self", "other")
        if dtype is torch.bool and kind != "Equal":
            dtype = torch.int32
        operands = [call.as_type(call[name], dtype) for name in ("self", "other")]
        made = call.graph.op(kind, *operands)
        return call.graph.op("Not", made) if negated else made

    return compare


for _name, _kind in (("gt", "Greater"), ("ge", "GreaterOrEqual"), ("lt", "Less"), ("le", "LessOrEqual")):
    _packet = getattr(_aten, _name)
    rule(_packet.Tensor, _packet.Scalar)(_compare(_kind))
rule(_aten.eq.Tensor, _aten.eq.Scalar)(_compare("Equal"))
rule(_aten.ne.Tensor, _aten.ne.Scalar, _aten.not_equal.Tensor, _aten.not_equal.Scalar)(_compare("Equal", negated=True))


def truth(call: Call, name: str) -> str:
    """Whether the elements of an argument are not zero."""
    dtype = call.fake(name).dtype
    if dtype is torch.bool:
        return call.tensor(name)
    return call.graph.op("Not", call.graph.op("Equal", call.tensor(name), call.graph.scalar(0, dtype)))


@rule(_aten.logical_not.default)
def logical_not(call: Call) -> str:
    """Whether the elements are zero."""
    return call.graph.op("Not", truth(call, "self"))


@rule(_aten.bitwise_not.default)
def bitwise_not(call: Call) -> str:
    """The complement of bits; of truth values, the negation."""
    return call.graph.op("Not" if call.out.dtype is torch.bool else "BitwiseNot", call.tensor("self"))


def _logical(kind: str) -> Callable[[Call], str]:
    return lambda call: call.graph.op(kind, truth(call, "self"), truth(call, "other"))


rule(_aten.logical_and.default)(_logical("And"))
rule(_aten.logical_or.default)(_logical("Or"))
rule(_aten.logical_xor.default)(_logical("Xor"))


def _bitwise(logical: str, bits: str) -> Callable[[Call], str]:
    def combine(call: Call) -> str:
        dtype = call.out.dtype
        operands = [call.as_type(call[name], dtype) for name in ("self", "other")]
        return call.graph.op(logical if dtype is torch.bool else bits, *operands)

    return combine


for _name, _logic, _bits in (("and", "And", "BitwiseAnd"), ("or", "Or", "BitwiseOr"), ("xor", "Xor", "BitwiseXor")):
    _packets = (getattr(_aten, f"bitwise_{_name}"), getattr(_aten, f"__{_name}__"))
    rule(*(overload for p in _packets for overload in (p.Tensor, p.Scalar)))(_bitwise(_logic, _bits))


@rule(_aten.__rshift__.Scalar, _aten.__rshift__.Tensor, _aten.bitwise_right_shift.Tensor)
def shift_right(call: Call) -> str:
    """A shift of bytes to the right.

    Raises:
        Untranslated: Signed numbers, which ONNX does not shift.
    """
    if call.out.dtype is not torch.uint8:
        raise Untranslated(f"ONNX does not shift {call.out.dtype}")
    operands = [call.as_type(call[name], torch.uint8) for name in ("self", "other")]
    return call.graph.op("BitShift", *operands, direction="RIGHT")


@rule(_aten.where.self, _aten.where.ScalarOther, _aten.where.ScalarSelf, _aten.where.Scalar)
def where(call: Call) -> str:
    """A selection by truth values."""
    dtype = call.out.dtype
    condition = call.cast(call.tensor("condition"), call.fake("condition").dtype, torch.bool)
    return call.graph.op("Where", condition, call.as_type(call["self"], dtype), call.as_type(call["other"], dtype))


@rule(_aten.masked_fill.Scalar, _aten.masked_fill.Tensor)
def masked_fill(call: Call) -> str:
    """A number where the mask is true."""
    dtype = call.out.dtype
    return call.graph.op("Where", call.tensor("mask"), call.as_type(call["value"], dtype), call.tensor("self"))


@rule(_aten.isnan.default)
def isnan(call: Call) -> str:
    """Whether the elements are NaN."""
    dtype = call.fake("self").dtype
    if dtype in WHOLE or dtype is torch.bool:
        raise Untranslated(f"isnan of {dtype}")
    return call.graph.op("IsNaN", call.tensor("self"))


@rule(_aten.isinf.default)
def isinf(call: Call) -> str:
    """Whether the elements are infinite."""
    if call.fake("self").dtype not in (torch.float32, torch.float64):
        raise Untranslated(f"isinf of {call.fake('self').dtype}")
    return call.graph.op("IsInf", call.tensor("self"))


@rule(_aten.isfinite.default)
def isfinite(call: Call) -> str:
    """Whether the elements are neither infinite nor NaN: the difference with themselves is zero."""
    dtype = call.fake("self").dtype
    if dtype in WHOLE or dtype is torch.bool:
        raise Untranslated(f"isfinite of {dtype}")
    return is_finite(call, call.tensor("self"), dtype)


def is_finite(call: Call, value: str, dtype: torch.dtype) -> str:
    """Whether the elements of a floating-point value are neither infinite nor NaN."""
    most = call.graph.scalar(torch.finfo(dtype).max, dtype)
    return call.graph.op("LessOrEqual", call.graph.op("Abs", value), most)


@rule(_aten.nan_to_num.default)
def nan_to_num(call: Call) -> str:
    """Numbers in place of NaN and infinities."""
    dtype, made = call.out.dtype, call.tensor("self")
    if dtype in WHOLE:
        return made
    limits = torch.finfo(dtype)
    values = [
        call[name] if call[name] is not None else default
        for name, default in (("nan", 0.0), ("posinf", limits.max), ("neginf", limits.min))
    ]
    nan, high, low = (call.graph.scalar(value, dtype) for value in values)
    made = call.graph.op("Where", call.graph.op("IsNaN", made), nan, made)
    for bound, kind, value in ((limits.max, "Greater", high), (limits.min, "Less", low)):
        beyond = call.graph.op(kind, made, call.graph.scalar(bound, dtype))
        made = call.graph.op("Where", beyond, value, made)
    return made
