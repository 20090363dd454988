"""Rows on levels symmetric about zero: x_hat = step * (code - (2^bits - 1) / 2)."""

from __future__ import annotations

import torch
from torch import Tensor

_FOR_ZERO = 1e-30  # divisor in place of a step of 0: values then take the first or the last level
_ROUNDS = 3  # each rounds to the levels of a row and then moves the levels
_BLOCK_VALUES = 1 << 20  # values that are compared at a time, in float64
# The first step of a row. At 2 bits: the distance of levels with the least error on normal values (Max, "Quantizing for minimum
# distortion", 1960, table II), over the mean magnitude sqrt(2 / pi) of such values. At more bits: the outermost level is this share of the
# largest magnitude, which has a smaller error on rows of up to some hundred columns.
_NORMAL_STEP = 1.248
_OUTERMOST = {4: 0.93, 8: 1.0}


def symmetric_steps(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Steps for rounding rows to codes, and steps for decoding the codes.

    The first steps alternate between rounding the rows and moving the step to the least squared error. The second are a little larger: the
    steps for which <x_hat, x> = <x, x>, as in RaBitQ (Gao and Long, SIGMOD 2024). With them dot products are unbiased over random
    directions, so that rows with a large rounding error rank like rows with a small one.

    Args:
        rows: Floating point [n, d].
        bits: 8, 4 or 2.

    Returns:
        Both are [n], and 0 for rows of zeros.
    """
    size = rows.abs().amax(1) if len(rows) else rows.new_empty(0)
    unit = _over(rows, size[:, None])  # its squares neither underflow nor overflow
    step = unit.abs().mean(1) * _NORMAL_STEP if bits == 2 else torch.full_like(size, _OUTERMOST[bits] / -lowest(bits))
    for _ in range(_ROUNDS):
        levels = _levels(unit, step, bits)
        step = _over((unit * levels).sum(1), (levels * levels).sum(1))
    # Rounded by the returned step: the second step must fit the codes that the caller gets.
    step = step * size
    levels = _levels(rows, step, bits)
    return step, _over((unit * unit).sum(1), (unit * levels).sum(1)) * size


def lowest(bits: int) -> float:
    """The value of code 0, in steps."""
    return -((1 << bits) - 1) / 2


def nearest_codes(values: Tensor, lower: Tensor, step: Tensor, bits: int) -> Tensor:
    """The codes of the nearest levels lower + step * code, uint8. Values outside the range take the first or the last level."""
    steps = (values - lower) / torch.where(step > 0, step, _FOR_ZERO)
    return steps.round_().clamp_(0, (1 << bits) - 1).to(torch.uint8)


def lost_across(rows: Tensor, held: Tensor) -> float:
    """The sum over rows [n, d] of the squared distance to the line through their approximation: the error that a scale cannot correct."""
    lost = 0.0
    block = max(1, _BLOCK_VALUES // max(rows.shape[1], 1))
    for start in range(0, len(rows), block):
        x, y = (part[start : start + block].double() for part in (rows, held))
        product, own, length = ((a * b).sum(1) for a, b in ((x, y), (y, y), (x, x)))
        lost += float((length - _over(product.square(), own)).sum())
    return lost


def _levels(rows: Tensor, step: Tensor, bits: int) -> Tensor:
    """The nearest levels, in steps."""
    column = step[:, None]
    return nearest_codes(rows, lowest(bits) * column, column, bits).to(rows.dtype) + lowest(bits)


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b, 0.0)
