"""Fake values of views whose sizes and strides follow without reasoning about symbolic sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from recfx.ir.row_tensors import are_sizes, is_plain, row_of, row_strides, same_size, view_of


def reshaped(source: FakeTensor, given: Any) -> FakeTensor | None:
    """`reshape` and `view` of rows [B, ...] to [B or -1, ...], and of contiguous rows to more or fewer."""
    row = row_of(source)
    sizes = list(given)[1:]
    if row is None or not len(given) or not are_sizes(sizes):
        return None
    rows, numbers, wanted = source.shape[0], math.prod(row), math.prod(sizes)
    apart = source.stride()[0] != numbers
    if apart and (not row or (type(rows) is int and rows == 1)):
        return None  # the strides of dimensions of size one are those that torch happens to give
    if numbers == wanted and _is_rows(given[0], rows):
        return view_of(source, [rows, *sizes], [source.stride()[0], *row_strides(sizes)[1:]])
    if apart or not isinstance(rows, torch.SymInt):
        return None
    many = given[0]
    if type(many) is int and many == -1:  # a rest fails the comparison below
        many = rows * (numbers // wanted)
    if not isinstance(many, torch.SymInt) or many.node.expr * wanted != rows.node.expr * numbers:
        return None
    return view_of(source, [many, *sizes], row_strides(sizes))


def sliced(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """`slice` of a dimension of the rows."""
    row = row_of(source)
    if not row or len(given) not in (3, 4) or not all(type(place) is int for place in given):
        return None
    dim, start, end, step = (*given, 1)[:4]
    dim = dim % source.ndim if -source.ndim <= dim < source.ndim else 0
    if dim == 0 or step < 1:
        return None
    first, *_ = held = range(row[dim - 1])[start:end:step] or (0,)
    if type(held) is not range:
        return None
    sizes, strides = list(source.shape), list(source.stride())
    sizes[dim] = len(held)
    offset = source.storage_offset() + first * strides[dim]
    strides[dim] *= step
    return view_of(source, sizes, strides, offset)


def unsqueezed(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """`unsqueeze` of a dimension behind the batch."""
    row, dim = row_of(source), given[0] if len(given) == 1 else None
    if row is None or type(dim) is not int or not -source.ndim - 1 <= dim <= source.ndim:
        return None
    place = dim % (source.ndim + 1)
    if place == 0:
        return None
    sizes, strides = list(source.shape), list(source.stride())
    apart = sizes[place] * strides[place] if place < source.ndim else 1
    return view_of(source, [*sizes[:place], 1, *sizes[place:]], [*strides[:place], apart, *strides[place:]])


def squeezed(source: FakeTensor, *given: Any) -> FakeTensor | None:
    """`squeeze` of one dimension of the rows."""
    row, dim = row_of(source), given[0] if len(given) == 1 else None
    if not row or type(dim) is not int or not -source.ndim <= dim < source.ndim or dim % source.ndim == 0:
        return None
    sizes, strides, place = list(source.shape), list(source.stride()), dim % source.ndim
    if sizes[place] != 1:
        return view_of(source, sizes, strides)
    return view_of(source, sizes[:place] + sizes[place + 1 :], strides[:place] + strides[place + 1 :])


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
