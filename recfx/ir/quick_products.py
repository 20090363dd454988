"""Fake values of matrix products over whole rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch._subclasses.fake_tensor import FakeTensor

from recfx.ir.row_tensors import are_sizes, fixed_sizes, is_plain, new_rows, row_of, same_size
from recfx.ir.true_sizes import is_clamped


def alike(*tensors: FakeTensor) -> bool:
    """Whether tensors have one dtype, device and fake mode."""
    first = tensors[0]
    return all(
        t.dtype is first.dtype and t.fake_device == first.fake_device and t.fake_mode is first.fake_mode
        for t in tensors[1:]
    )


def linear(source: FakeTensor, weight: FakeTensor, *bias: FakeTensor) -> FakeTensor | None:
    """`linear` of rows [B, ..., inputs] with a weight [outputs, inputs]."""
    row = row_of(source)
    if not row or len(bias) > 1 or not _are_factors(source, weight, *bias) or not _is_matrix(weight):
        return None
    outputs, inputs = weight.shape
    if inputs != row[-1] or any(fixed_sizes(t) != [outputs] for t in bias):
        return None
    return new_rows(source, [*row[:-1], outputs])


def addmm(bias: FakeTensor, source: FakeTensor, weight: FakeTensor) -> FakeTensor | None:
    """`addmm` of a bias [outputs], rows [B, inputs] and a weight [inputs, outputs]."""
    if not _are_factors(source, weight, bias) or not _is_matrix(weight) or fixed_sizes(bias) != [weight.shape[1]]:
        return None
    return mm(source, weight)


def mm(source: FakeTensor, weight: FakeTensor) -> FakeTensor | None:
    """`mm` of rows [B, inputs] and a weight [inputs, outputs]."""
    return _times_matrix(source, weight) if source.ndim == 2 else None


def matmul(left: FakeTensor, right: FakeTensor) -> FakeTensor | None:
    """`matmul` of rows [B, ..., inputs] with a weight [inputs, outputs], or of the matrices of each row."""
    if right.ndim == 2 and left.ndim in (2, 3):
        return _times_matrix(left, right)
    return batched_product(left, right)


def batched_product(left: FakeTensor, right: FakeTensor) -> FakeTensor | None:
    """`bmm` of the matrices [n, inputs] and [inputs, m] of each row; they may be transposed."""
    if left.ndim != 3 or right.ndim != 3 or not _are_factors(left, right):
        return None
    if is_clamped(left.shape[0]) or not same_size(left.shape[0], right.shape[0]):
        return None
    sizes = [*list(left.shape)[1:], *list(right.shape)[1:]]
    if not are_sizes(sizes) or sizes[1] != sizes[2]:
        return None
    return new_rows(left, [sizes[0], sizes[3]])


def _times_matrix(source: FakeTensor, weight: FakeTensor) -> FakeTensor | None:
    row = row_of(source)
    if not row or not _are_factors(source, weight) or not _is_matrix(weight):
        return None
    inputs, outputs = weight.shape
    return new_rows(source, [*row[:-1], outputs]) if inputs == row[-1] else None


def _is_matrix(weight: FakeTensor) -> bool:
    return weight.ndim == 2 and are_sizes(weight.shape)


def _are_factors(*tensors: FakeTensor) -> bool:
    return alike(*tensors) and tensors[0].is_floating_point() and all(map(is_plain, tensors))


def same_rows(tensors: Sequence[FakeTensor]) -> bool:
    """Whether tensors have the same number of rows."""
    return all(same_size(t.shape[0], tensors[0].shape[0]) for t in tensors[1:])
