"""Fake tensors [B, ...] whose rows are contiguous, made without a fake kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

from recfx.ir.true_sizes import is_clamped


def is_plain(tensor: FakeTensor) -> bool:
    """Whether sizes, strides and dtype say everything about a tensor."""
    return tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())


def row_of(tensor: FakeTensor) -> list[int] | None:
    """The sizes of a row of a tensor [B, ...] whose rows are contiguous and do not overlap.

    None for other tensors, where the sizes of a row vary or one is 0, and where the number of rows is clamped, as that of `x[-3:-2]`: a
    fake kernel asks whether it is one, and its answer limits the batch.
    """
    if not is_plain(tensor) or tensor.ndim == 0 or is_clamped(tensor.shape[0]):
        return None
    sizes, strides = list(tensor.shape)[1:], list(tensor.stride())
    if not are_sizes(sizes) or not all(type(stride) is int for stride in strides):
        return None
    apart, *contiguous = row_strides(sizes)
    return sizes if strides[0] >= apart and strides[1:] == contiguous else None


def fixed_sizes(tensor: FakeTensor) -> list[int] | None:
    """The sizes of a contiguous tensor; None for other tensors, and where the sizes vary or one is 0."""
    sizes, strides = list(tensor.shape), list(tensor.stride())
    if not is_plain(tensor) or not are_sizes(sizes) or not all(type(stride) is int for stride in strides):
        return None
    return sizes if strides == row_strides(sizes)[1:] else None


def are_sizes(values: Sequence[Any]) -> bool:
    """Whether values are positive numbers. To compare a symbolic size with a number would limit it."""
    return all(type(value) is int and value > 0 for value in values)


def row_strides(row: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor [B, *row]."""
    return [math.prod(row[i:]) for i in range(len(row) + 1)]


def same_size(a: Any, b: Any) -> bool:
    """Whether two sizes are one number or one expression. Sizes that data decides are left to fake kernels."""
    if isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt):
        return bool(a.node.expr == b.node.expr)
    return type(a) is int and type(b) is int and a == b


def any_bytes(dtype: torch.dtype) -> torch.Tensor:
    """A meta tensor for views of any size, since the number of its bytes would be a symbolic product, which takes long to compute.

    Operators that change sizes in place, such as `unsqueeze_`, compare the new ones with these bytes. They are more than a tensor of the
    largest batch has.
    """
    return torch.empty((1 << 62) // dtype.itemsize, dtype=dtype, device="meta")


def new_rows(source: FakeTensor, row: Sequence[int], dtype: torch.dtype | None = None) -> FakeTensor:
    """A new contiguous tensor with as many rows as another one.

    Args:
        source: The other tensor.
        row: The sizes of a row.
        dtype: The dtype; by default that of the other tensor.
    """
    mode = source.fake_mode
    assert mode.shape_env is not None
    with torch.no_grad(), in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards():
        plain = any_bytes(dtype or source.dtype).as_strided([source.shape[0], *row], row_strides(row), 0)
    return FakeTensor(mode, plain, source.fake_device)


def view_of(source: FakeTensor, sizes: Sequence[Any], strides: Sequence[Any], offset: Any = None) -> FakeTensor:
    """A view of a tensor.

    Args:
        source: The tensor.
        sizes: Sizes of the view.
        strides: Its strides.
        offset: Its first element in memory; by default that of the tensor.
    """
    mode = source.fake_mode
    assert mode.shape_env is not None
    with torch.no_grad(), in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards():
        start = source.storage_offset() if offset is None else offset
        plain = source.as_strided(sizes, strides, start)
    return FakeTensor(mode, plain, source.fake_device)
