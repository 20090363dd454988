"""Functions of two tensors, comparisons, logic, choices by a mask, and casts.

OpenVINO's Greater and GreaterEqual are true for NaN; Less and LessEqual are false, as in torch. So comparisons use only these.
"""

from __future__ import annotations

from typing import Any

import torch

from recfx.ir.op_sets import COPIES
from recfx.targets.openvino.rules.elementwise import keep_nan
from recfx.targets.openvino.rules.registry import Unsupported, rule

_aten = torch.ops.aten
_FLOAT, _BOOL = torch.float32, torch.bool
_LARGEST = 2**31 - 1


def _combined(b: Any, x: Any, y: Any, name: str) -> Any:
    return getattr(b.op, name)(b.cast(x, _FLOAT), b.cast(y, _FLOAT))


def _scaled(b: Any, value: Any, alpha: Any) -> Any:
    return value if alpha == 1 else _combined(b, value, float(alpha), "multiply")


def _of_flags(b: Any, self: Any, other: Any, name: str) -> Any:
    """A function of two tensors of flags, for which torch has an arithmetic operator."""
    return getattr(b.op, name)(b.cast(self, _BOOL), b.cast(other, _BOOL))


@rule(_aten.add.Tensor)
def _add(b: Any, self: Any, other: Any, *, alpha: Any = 1) -> Any:
    if b.result_dtype() is _BOOL and alpha == 1:
        return _of_flags(b, self, other, "logical_or")
    return _combined(b, self, _scaled(b, other, alpha), "add")


@rule(_aten.sub.Tensor)
def _sub(b: Any, self: Any, other: Any, *, alpha: Any = 1) -> Any:
    return _combined(b, self, _scaled(b, other, alpha), "subtract")


@rule(_aten.rsub.Scalar, _aten.rsub.Tensor)
def _rsub(b: Any, self: Any, other: Any, alpha: Any = 1) -> Any:
    return _combined(b, other, _scaled(b, self, alpha), "subtract")


@rule(_aten.mul.Tensor)
def _mul(b: Any, self: Any, other: Any) -> Any:
    if b.result_dtype() is _BOOL:
        return _of_flags(b, self, other, "logical_and")
    return _combined(b, self, other, "multiply")


@rule(_aten.div.Tensor, _aten.true_divide.Tensor)
def _div(b: Any, self: Any, other: Any) -> Any:
    x, y = b.cast(self, _FLOAT), b.cast(other, _FLOAT)
    if isinstance(b.node.args[1], torch.fx.Node):
        # OpenVINO multiplies by the reciprocal, which is infinite for a denormal divisor.
        tiny = b.op.less(b.op.abs(y), b.number(torch.finfo(_FLOAT).tiny))
        x, y = (b.op.select(tiny, b.op.multiply(value, b.number(2.0**64)), value) for value in (x, y))
    return b.op.divide(x, y)


@rule(_aten.maximum.default, _aten.max.other)
def _maximum(b: Any, self: Any, other: Any) -> Any:
    if b.result_dtype() is _BOOL:
        return _of_flags(b, self, other, "logical_or")
    x = b.cast(self, _FLOAT)
    return keep_nan(b, x, b.op.maximum(x, b.cast(other, _FLOAT)))


@rule(_aten.minimum.default, _aten.min.other)
def _minimum(b: Any, self: Any, other: Any) -> Any:
    if b.result_dtype() is _BOOL:
        return _of_flags(b, self, other, "logical_and")
    x = b.cast(self, _FLOAT)
    return keep_nan(b, x, b.op.minimum(x, b.cast(other, _FLOAT)))


@rule(_aten.addcmul.default)
def _addcmul(b: Any, self: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return _combined(b, self, _scaled(b, _combined(b, tensor1, tensor2, "multiply"), value), "add")


def _compared_type(b: Any, *values: Any) -> torch.dtype:
    """The type in which torch compares two values."""
    kinds = [b.dtype_of(v) if isinstance(v, torch.fx.Node) else type(v) for v in values]
    if _FLOAT in kinds or float in kinds:
        return _FLOAT
    if any(isinstance(v, int) and abs(v) > _LARGEST for v in values):
        raise Unsupported("a number that has no 32-bit integer")
    return torch.int64


def _comparison(name: str, *, swapped: bool = False) -> Any:
    def build(b: Any, self: Any, other: Any) -> Any:
        kind = _compared_type(b, *b.node.args[:2])
        left, right = b.cast(self, kind), b.cast(other, kind)
        return getattr(b.op, name)(right, left) if swapped else getattr(b.op, name)(left, right)

    return build


for _overload in ("Scalar", "Tensor"):
    for _target, _name, _swapped in (
        *((_aten.lt, "less", False), (_aten.le, "less_equal", False)),
        *((_aten.gt, "less", True), (_aten.ge, "less_equal", True)),
        *((_aten.eq, "equal", False), (_aten.ne, "not_equal", False)),
    ):
        rule(getattr(_target, _overload))(_comparison(_name, swapped=_swapped))


def as_flags(b: Any, value: Any, node: Any) -> Any:
    """A value as booleans: what is not zero."""
    kind = b.dtype_of(node)
    return value if kind is _BOOL else b.op.not_equal(value, b.number(0, kind))


@rule(_aten.logical_not.default, _aten.bitwise_not.default)
def _not(b: Any, self: Any) -> Any:
    if b.result_dtype() is not _BOOL:
        raise Unsupported("bits of integers")
    return b.op.logical_not(as_flags(b, self, b.node.args[0]))


def _logic(name: str) -> Any:
    def build(b: Any, self: Any, other: Any) -> Any:
        if b.result_dtype() is not _BOOL or not isinstance(b.node.args[1], torch.fx.Node):
            raise Unsupported("bits of integers")
        left, right = b.node.args[:2]
        return getattr(b.op, name)(as_flags(b, self, left), as_flags(b, other, right))

    return build


for _words, _name in (("and", "logical_and"), ("or", "logical_or"), ("xor", "logical_xor")):
    rule(
        getattr(_aten, f"logical_{_words}").default,
        getattr(_aten, f"bitwise_{_words}").Tensor,
        getattr(_aten, f"__{_words}__").Tensor,
    )(_logic(_name))


def _chosen(b: Any, condition: Any, x: Any, y: Any) -> Any:
    kind = b.result_dtype()
    for value in (x, y):
        if kind is not _FLOAT and isinstance(value, int | float) and abs(value) > _LARGEST:
            raise Unsupported("a number that has no 32-bit integer")
    x, y = b.cast(x, kind), b.cast(y, kind)
    if kind is _BOOL:
        # OpenVINO computes some booleans as bytes and others not, and a selection of both does not compile.
        return b.op.logical_or(b.op.logical_and(condition, x), b.op.logical_and(b.op.logical_not(condition), y))
    return b.op.select(condition, x, y)


@rule(_aten.where.self, _aten.where.ScalarOther, _aten.where.ScalarSelf, _aten.where.Scalar, integers=True)
def _where(b: Any, condition: Any, self: Any, other: Any) -> Any:
    return _chosen(b, as_flags(b, condition, b.node.args[0]), self, other)


@rule(_aten.masked_fill.Scalar, _aten.masked_fill.Tensor, integers=True)
def _masked_fill(b: Any, self: Any, mask: Any, value: Any) -> Any:
    return _chosen(b, mask, value, self)


def _cast(b: Any, x: Any, source: Any) -> Any:
    before, after = b.dtype_of(source), b.result_dtype()
    if after is _BOOL:
        return as_flags(b, x, source)
    if before is _FLOAT and after is not _FLOAT:
        raise Unsupported("a cast of numbers to integers, which differs for NaN and numbers beyond 32 bits")
    return b.cast(x, after)


@rule(_aten.to.dtype, integers=True)
def _to(
    b: Any, self: Any, dtype: Any, non_blocking: bool = False, copy: bool = False, memory_format: Any = None
) -> Any:
    return _cast(b, self, b.node.args[0])


@rule(_aten._to_copy.default, _aten.to.dtype_layout, integers=True)
def _to_copy(b: Any, self: Any, **options: Any) -> Any:
    return _cast(b, self, b.node.args[0])


@rule(
    *COPIES,
    _aten.lift_fresh_copy.default,
    integers=True,
)
def _copy(b: Any, self: Any, *, memory_format: Any = None) -> Any:
    return self


@rule(_aten.dropout.default)
def _dropout(b: Any, input: Any, p: float, train: bool) -> Any:
    if train:
        raise Unsupported("dropout in training")
    return input
