"""Fake values of views whose sizes and strides follow without reasoning about symbolic sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

from recfx.ir.row_tensors import are_sizes, is_plain, row_of, row_strides, same_size, view_of


def reshaped(source: FakeTensor, given: Any) -> FakeTensor | None:
    """`reshape` and `view` of rows [B, ...] to [B or -1, ...]."""
    row = row_of(source)
    sizes = list(given)[1:]
    if row is None or not len(given) or not are_sizes(sizes):
        return None
    if math.prod(sizes) != math.prod(row) or not _is_rows(given[0], source.shape[0]):
        return None
    return view_of(source, [source.shape[0], *sizes], [source.stride()[0], *row_strides(sizes)[1:]])


def sliced(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """`slice` of the first dimension of rows."""
    row = row_of(source)
    if not row or len(given) != 3 or not all(type(place) is int for place in given):
        return None
    dim, start, end = given
    if dim != 1 or not 0 <= start < end <= row[0]:
        return None
    strides = source.stride()
    return view_of(
        source, [source.shape[0], end - start, *row[1:]], strides, source.storage_offset() + start * strides[1]
    )


def selected(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """`select` of one element of a dimension of the rows."""
    row = row_of(source)
    if not row or len(given) != 2 or not all(type(place) is int for place in given):
        return None
    dim = given[0] % source.ndim if -source.ndim <= given[0] < source.ndim else 0
    if dim == 0 or not -row[dim - 1] <= given[1] < row[dim - 1]:
        return None
    sizes, strides = list(source.shape), list(source.stride())
    offset = source.storage_offset() + given[1] % row[dim - 1] * strides[dim]
    return view_of(source, sizes[:dim] + sizes[dim + 1 :], strides[:dim] + strides[dim + 1 :], offset)


def matrix_transposed(source: FakeTensor) -> FakeTensor | None:
    """`t` of a matrix."""
    return permuted(source, (1, 0)) if source.ndim == 2 else None


def transposed(source: FakeTensor, *dims: Any) -> FakeTensor | None:
    """`transpose` of two dimensions."""
    if len(dims) != 2 or not _are_dims(dims, source.ndim):
        return None
    order = list(range(source.ndim))
    first, second = (dim % source.ndim for dim in dims)
    order[first], order[second] = order[second], order[first]
    return permuted(source, order)


def permuted(source: FakeTensor, order: Any) -> FakeTensor | None:
    """`permute`."""
    if not is_plain(source) or not source.ndim or len(order) != source.ndim or not _are_dims(order, source.ndim):
        return None
    dims = [dim % source.ndim for dim in order]
    if len(set(dims)) != len(dims):
        return None
    sizes, strides = source.shape, source.stride()
    return view_of(source, [sizes[dim] for dim in dims], [strides[dim] for dim in dims])


def _are_dims(given: Sequence[Any], ndim: int) -> bool:
    return all(type(dim) is int and -ndim <= dim < ndim for dim in given)


def _is_rows(given: Any, rows: Any) -> bool:
    return (type(given) is int and given == -1) or same_size(given, rows)
