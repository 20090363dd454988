"""Rows on levels symmetric about zero: x_hat = step * (code - (2^bits - 1) / 2)."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 3  # of rounding to a row's levels and moving them
_LEAST_STEP = 1e-30
_BLOCK_VALUES = 1 << 20  # compared at a time, in float64
# Where rows begin: at 2 bits at the distance of levels that loses least on normal values (Max, "Quantizing for minimum distortion", 1960,
# table II) over their mean magnitude sqrt(2 / pi); at more where the outermost level takes such a part of the largest magnitude, which
# loses less on rows of up to some hundred columns.
_NORMAL_STEP = 1.248
_OUTERMOST = {4: 0.93, 8: 1.0}


def symmetric_steps(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Steps for rounding rows, and steps that the codes then stand for.

    Rows are rounded, and the step is moved to the least squared error, in turn: that gives the codes. They stand for levels a little
    further apart, at the step for which <x_hat, x> = <x, x>, as RaBitQ has it (Gao and Long, SIGMOD 2024): so dot products are not
    underrated, in expectation over directions, and rows that round badly rank as those that round well.

    Args:
        rows: Floating point [n, d].
        bits: 8, 4 or 2.

    Returns:
        Both [n], 0 for rows of zeros.
    """
    size = rows.abs().amax(1) if len(rows) else rows.new_empty(0)
    unit = _over(rows, size[:, None])  # whose squares neither vanish nor grow too large
    step = unit.abs().mean(1) * _NORMAL_STEP if bits == 2 else torch.full_like(size, _OUTERMOST[bits] / -lowest(bits))
    for _ in range(_ROUNDS):
        levels = _levels(unit, step, bits)
        step = _over((unit * levels).sum(1), (levels * levels).sum(1))
    # Rounded by the very step that is given back, so that codes come out as they were measured.
    step = step * size
    levels = _levels(rows, step, bits)
    return step, _over((unit * unit).sum(1), (unit * levels).sum(1)) * size


def lowest(bits: int) -> float:
    """The value of code 0, in steps."""
    return -((1 << bits) - 1) / 2


def nearest_codes(values: Tensor, lower: Tensor, step: Tensor, bits: int) -> Tensor:
    """The codes of the nearest of the levels lower + step * code, uint8; values beyond them take the ends."""
    steps = (values - lower) / step.clamp(min=_LEAST_STEP)
    return steps.round_().clamp_(0, (1 << bits) - 1).to(torch.uint8)


def lost_across(rows: Tensor, held: Tensor) -> float:
    """What of the squared lengths of rows [n, d] is across what is held in their place: the part of the error that no scale mends."""
    lost = 0.0
    block = max(1, _BLOCK_VALUES // max(rows.shape[1], 1))
    for start in range(0, len(rows), block):
        x, y = (part[start : start + block].double() for part in (rows, held))
        product, own, length = ((a * b).sum(1) for a, b in ((x, y), (y, y), (x, x)))
        lost += float((length - _over(product.square(), own)).sum())
    return lost


def _levels(rows: Tensor, step: Tensor, bits: int) -> Tensor:
    """The nearest levels over the step."""
    column = step[:, None]
    return nearest_codes(rows, lowest(bits) * column, column, bits).to(rows.dtype) + lowest(bits)


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is."""
    return torch.where(b > 0, a / b, 0.0)
