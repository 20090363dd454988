"""Translations of ATen operators into ONNX that torch's exporter lacks, writes as loops, or writes without a check for negative ids.

The functions run while a graph is exported; their arguments and results are values of ONNX graphs. Imported with onnxscript alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import INT64, ir, opset18

_aten = torch.ops.aten
op: Any = opset18
_MOST = torch.iinfo(torch.int64).max
_SUM, _MEAN, _MAX = 0, 1, 2

#: A value of an ONNX graph.
Value = Any


def _whole(*numbers: int) -> Value:
    """A constant vector of whole numbers."""
    return op.Constant(value_ints=list(numbers))


def _checked(ids: Value, rows: Value) -> Value:
    """Ids as int64, with negative ids moved beyond every row: ONNX counts them from the end, torch refuses them."""
    ids = op.Cast(ids, to=INT64.dtype)
    return op.Where(op.Less(ids, _whole(0)), rows, ids)


def _rows(table: Value) -> Value:
    return op.Shape(table, start=0, end=1)


def embedding(
    weight: Value, indices: Value, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Value:
    """`aten.embedding`."""
    return op.Gather(weight, _checked(indices, _rows(weight)))


def index_select(self: Value, dim: int, index: Value) -> Value:
    """`aten.index_select` of a tensor with dimensions."""
    dim = dim % len(self.shape)
    size = op.Shape(self, start=dim, end=dim + 1)
    return op.Gather(self, _checked(op.Reshape(index, _whole(-1)), size), axis=dim)


def embedding_bag(
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Value, Value, Value, Value]:
    """`aten.embedding_bag` as one gather and one sum by bag, where torch's exporter writes a loop over the bags.

    Offsets that fall, do not start at 0 or exceed the number of ids are replaced by positions outside, which the runtime refuses.
    """
    count, offsets = op.Shape(indices), op.Cast(offsets, to=INT64.dtype)
    inner = op.Slice(offsets, _whole(1), _whole(_MOST))
    # If the offsets include the end, ids behind it form one more bag, which is dropped.
    ends = op.Concat(inner, count, axis=0)
    bound = op.Concat(_whole(0), offsets, count, axis=0)
    falls = op.Sub(op.Slice(bound, _whole(0), _whole(-1)), op.Slice(bound, _whole(1), _whole(_MOST)))
    first = op.Abs(op.Slice(offsets, _whole(0), _whole(1)))
    wrong = op.Greater(op.ReduceMax(op.Concat(_whole(0), falls, first, axis=0), keepdims=1), _whole(0))
    ends = op.Where(wrong, _whole(_MOST), ends)
    bag = _bag_numbers(ends, count)
    rows = op.Gather(weight, _checked(indices, _rows(weight)))
    column = op.Unsqueeze(bag, _whole(1))
    bags = op.Shape(ends)
    counts = op.Expand(op.Constant(value_float=1.0), count)
    if padding_idx is not None:
        rows_held = op.Cast(_rows(weight), to=INT64.dtype)
        padding = _whole(padding_idx) if padding_idx >= 0 else op.Add(rows_held, _whole(padding_idx))
        kept = op.Not(op.Equal(op.Cast(indices, to=INT64.dtype), padding))
        counts = op.Cast(kept, to=ir.DataType.FLOAT)
        neutral = float("-inf") if mode == _MAX else 0.0
        rows = op.Where(op.Unsqueeze(kept, _whole(1)), rows, op.CastLike(op.Constant(value_float=neutral), rows))
    if per_sample_weights is not None:
        rows = op.Mul(rows, op.Unsqueeze(op.CastLike(per_sample_weights, rows), _whole(1)))
    start = op.CastLike(op.Constant(value_float=float("-inf") if mode == _MAX else 0.0), rows)
    empty = op.Expand(start, op.Concat(bags, op.Shape(weight, start=1, end=2), axis=0))
    pooled = op.ScatterND(empty, column, rows, reduction="max" if mode == _MAX else "add")
    sizes = op.ScatterElements(op.Expand(op.Constant(value_float=0.0), bags), bag, counts, axis=0, reduction="add")
    if mode == _MEAN:
        least = op.Max(sizes, op.Constant(value_float=1.0))
        pooled = op.Div(pooled, op.CastLike(op.Unsqueeze(least, _whole(1)), pooled))
    if mode == _MAX:
        held = op.Unsqueeze(op.Greater(sizes, op.Constant(value_float=0.0)), _whole(1))
        pooled = op.Where(held, pooled, op.CastLike(op.Constant(value_float=0.0), pooled))
    sizes = op.Cast(sizes, to=INT64.dtype)
    if include_last_offset:
        pooled, sizes = (op.Slice(value, _whole(0), _whole(-1), _whole(0)) for value in (pooled, sizes))
    return pooled, bag, sizes, sizes


def _bag_numbers(ends: Value, count: Value) -> Value:
    """The bag of each id, from the position behind each bag."""
    places = op.Expand(_whole(0), op.Add(count, _whole(1)))
    ones = op.Expand(_whole(1), op.Shape(ends))
    ended = op.CumSum(op.ScatterElements(places, ends, ones, axis=0, reduction="add"), op.Constant(value_int=0))
    return op.Slice(ended, _whole(0), _whole(-1))


def view_dtype(self: Value, dtype: int) -> Value:
    """`aten.view.dtype` of bytes as half or single precision, computed from sign, exponent and fraction.

    Raises:
        NotImplementedError: Another pair of types.
    """
    sizes = {ir.DataType.FLOAT16: 2, ir.DataType.FLOAT: 4}
    if self.dtype != ir.DataType.UINT8 or dtype not in sizes:
        raise NotImplementedError(f"aten.view of {self.dtype} as {ir.DataType(dtype)}")
    size, axis = sizes[ir.DataType(dtype)], _whole(len(self.shape) - 1)
    numbers = op.Cast(self, to=ir.DataType.INT32)
    parts = [op.Slice(numbers, _whole(at), _whole(_MOST), axis, _whole(size)) for at in range(size)]
    if size == 2:
        sign, exponent, fraction = _half_fields(*parts)
        return op.Cast(_number(sign, exponent, fraction, 5, 10), to=ir.DataType.FLOAT16)
    return _number(*_single_fields(*parts), 8, 23)


def _constant(number: int) -> Value:
    return op.Cast(op.Constant(value_int=number), to=ir.DataType.INT32)


def _half_fields(low: Value, high: Value) -> tuple[Value, Value, Value]:
    """Sign, exponent and fraction of numbers in half precision."""
    fraction = op.Add(low, op.Mul(op.Mod(high, _constant(4)), _constant(256)))
    return op.Div(high, _constant(128)), op.Mod(op.Div(high, _constant(4)), _constant(32)), fraction


def _single_fields(first: Value, second: Value, third: Value, fourth: Value) -> tuple[Value, Value, Value]:
    """Sign, exponent and fraction of numbers in single precision."""
    fraction = op.Add(first, op.Mul(second, _constant(256)))
    fraction = op.Add(fraction, op.Mul(op.Mod(third, _constant(128)), _constant(65536)))
    exponent = op.Add(op.Mul(op.Mod(fourth, _constant(128)), _constant(2)), op.Div(third, _constant(128)))
    return op.Div(fourth, _constant(128)), exponent, fraction


def _number(sign: Value, exponent: Value, fraction: Value, bits: int, digits: int) -> Value:
    """The numbers in float32; every step is exact."""
    most, bias = (1 << bits) - 1, (1 << (bits - 1)) - 1
    powers = [2.0 ** (max(e, 1) - bias) for e in range(most)] + [float("inf")]
    scale = op.Gather(op.Constant(value_floats=powers), exponent)
    digit = op.Mul(op.Cast(fraction, to=ir.DataType.FLOAT), op.Constant(value_float=2.0**-digits))
    leading = op.Cast(op.Greater(exponent, _constant(0)), to=ir.DataType.FLOAT)
    size = op.Mul(op.Add(digit, leading), scale)
    odd = op.And(op.Equal(exponent, _constant(most)), op.Greater(fraction, _constant(0)))
    size = op.Where(odd, op.Constant(value_float=float("nan")), size)
    return op.Where(op.Equal(sign, _constant(1)), op.Neg(size), size)


def shift_right(self: Value, other: Value) -> Value:
    """A shift of bytes to the right.

    Raises:
        NotImplementedError: Another type: ONNX shifts signed numbers in another way.
    """
    if self.dtype != ir.DataType.UINT8:
        raise NotImplementedError(f"a shift of {self.dtype}")
    return op.BitShift(self, other, direction="RIGHT")


#: Operator of ATen -> its translation.
TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    _aten.embedding.default: embedding,
    _aten.embedding_bag.default: embedding_bag,
    _aten.embedding_bag.padding_idx: embedding_bag,
    _aten._embedding_bag.default: embedding_bag,
    _aten._embedding_bag_forward_only.default: embedding_bag,
    _aten.index_select.default: index_select,
    _aten.view.dtype: view_dtype,
    _aten.__rshift__.Tensor: shift_right,
    _aten.bitwise_right_shift.Tensor: shift_right,
}
