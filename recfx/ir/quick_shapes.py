"""Fake values of the commonest operators over whole rows, made without a fake kernel.

A fake kernel proves properties of symbolic sizes, which takes milliseconds for a reshape. Here the number of rows stays and all other sizes
are numbers, so that the sizes of the result are known:

    reshape(x [B, ...], [-1 or B, ...])   a view of a tensor with contiguous rows
    x * y, x + y, x - y                   of tensors of one shape and dtype with contiguous rows
    linear(x, weight, bias)               of a tensor with contiguous rows
    slice(x, 1, start, end)               of a tensor with contiguous rows, a view
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

from recfx.ir.op_sets import ADDITIONS

_aten = torch.ops.aten
_ARITHMETIC = (_aten.mul.Tensor, *ADDITIONS)


def quick_value(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> FakeTensor | None:
    """The fake value of an operator; None where its fake kernel must compute it.

    Args:
        target: The operator.
        args: Its positional arguments, with fake tensors.
        kwargs: Its keyword arguments.
    """
    if kwargs or len(args) < 2 or type(args[0]) is not FakeTensor:
        return None
    if target is _aten.reshape.default:
        return _reshaped(args[0], args[1])
    if target is _aten.slice.Tensor:
        return _sliced(args[0], args[1:])
    if not all(type(arg) is FakeTensor for arg in args):
        return None
    if target is _aten.linear.default:
        return _linear(args[0], args[1], args[2:])
    return _combined(args[0], args[1]) if target in _ARITHMETIC else None


def _reshaped(source: FakeTensor, given: Any) -> FakeTensor | None:
    row = _row_of(source)
    sizes = list(given)[1:]
    if row is None or not len(given) or not all(type(size) is int and size > 0 for size in sizes):
        return None
    if math.prod(sizes) != math.prod(row) or not _is_rows(given[0], source.shape[0]):
        return None
    return _tensor(source, sizes, source.stride()[0])


def _sliced(source: FakeTensor, given: Sequence[Any]) -> FakeTensor | None:
    row = _row_of(source)
    if not row or len(given) != 3 or not all(type(place) is int for place in given):
        return None
    dim, start, end = given
    if dim != 1 or not 0 <= start < end <= row[0]:
        return None
    offset = source.storage_offset() + start * source.stride()[1]
    return _tensor(source, [end - start, *row[1:]], source.stride()[0], offset)


def _linear(source: FakeTensor, weight: FakeTensor, bias: Sequence[FakeTensor]) -> FakeTensor | None:
    row, others = _row_of(source), (weight, *bias)
    alike = all(t.dtype is source.dtype and t.fake_device == source.fake_device for t in others)
    alike = alike and source.is_floating_point() and all(t.fake_mode is source.fake_mode for t in others)
    if not row or not alike or weight.ndim != 2 or len(others) > 2:
        return None
    outputs, inputs = weight.shape
    if not (type(outputs) is int and outputs > 0 and type(inputs) is int and inputs == row[-1]):
        return None
    if any(list(t.shape) != [outputs] for t in bias):
        return None
    return _tensor(source, [*row[:-1], outputs], None)


def _combined(left: FakeTensor, right: FakeTensor) -> FakeTensor | None:
    row = _row_of(left)
    alike = left.dtype is right.dtype and left.fake_device == right.fake_device and left.fake_mode is right.fake_mode
    if row is None or not alike or row != _row_of(right) or not _same(left.shape[0], right.shape[0]):
        return None
    return None if left.dtype is torch.bool else _tensor(left, row, None)


def _row_of(tensor: FakeTensor) -> list[int] | None:
    """The sizes of a row of a tensor [B, ...] whose rows are contiguous and do not overlap.

    None for other tensors, and where the sizes vary or one is 0.
    """
    if (
        tensor.layout is not torch.strided
        or tensor.ndim == 0
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
    ):
        return None
    sizes = list(tensor.shape)[1:]
    if not all(type(size) is int and size > 0 for size in sizes):
        return None
    first, *inner = tensor.stride()
    apart, *contiguous = _strides(sizes)
    return sizes if type(first) is int and first >= apart and inner == contiguous else None


def _strides(row: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor [B, *row]."""
    return [math.prod(row[i:]) for i in range(len(row) + 1)]


def _is_rows(given: Any, rows: Any) -> bool:
    return (type(given) is int and given == -1) or _same(given, rows)


def _same(a: Any, b: Any) -> bool:
    """Whether two sizes are one number or one expression. Sizes that data decides are left to fake kernels."""
    if isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt):
        return bool(a.node.expr == b.node.expr)
    return type(a) is int and type(b) is int and a == b


def _tensor(source: FakeTensor, row: Sequence[int], distance: int | None, offset: Any = None) -> FakeTensor:
    """A tensor with as many rows as another one.

    Args:
        source: The other tensor.
        row: The sizes of a row.
        distance: The distance of the rows of a view of the other tensor; None for a new tensor.
        offset: The first element of the view in memory; by default that of the other tensor.
    """
    mode = source.fake_mode
    sizes, strides = [source.shape[0], *row], _strides(row)
    assert mode.shape_env is not None
    with torch.no_grad(), in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards():
        if distance is not None:
            plain = source.as_strided(
                sizes, [distance, *strides[1:]], source.storage_offset() if offset is None else offset
            )
        else:  # as in `recfx.capture.trace_forms`: nothing reads its bytes
            plain = torch.empty(0, dtype=source.dtype, device="meta").as_strided(sizes, strides, 0)
    return FakeTensor(mode, plain, source.fake_device)
