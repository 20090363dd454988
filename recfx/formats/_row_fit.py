"""Scale and bias of the rows of a row-wise table: what `encode_rows` chooses before it rounds values to codes.

Every function takes float32 rows [R, D] and gives scale and bias, float32 [R, 1], not yet rounded to half precision.
"""

from __future__ import annotations

import itertools

import torch

Fit = tuple[torch.Tensor, torch.Tensor]

#: By how many steps of a code the search for the least squared error moves a row's ends inwards.
_MOVES = (0.0, 0.3, 0.6, 0.9, 1.2)
_POLISHING_STEPS = 2


def spread(rows: torch.Tensor, bits: int) -> Fit:
    """From the row's minimum, rounded to half precision, to its maximum."""
    bias = rows.amin(1, keepdim=True).half().float()
    return (rows.amax(1, keepdim=True) - bias) / ((1 << bits) - 1), bias


def two_levels(rows: torch.Tensor) -> Fit:
    """The two values of least squared error.

    For given values, each number goes to the nearer one, so the best partition of a row is a cut of its sorted numbers. For a given cut,
    the best values are the means of its two sides. What remains of the row's sum of squares about its mean is that minus
    `S² n / (k (n - k))`, S being the sum of the k lowest numbers less k means; the cut with the largest such term is the best. (A cut
    at the mean, as binary networks take it by the sign, is best for symmetric rows alone.)
    """
    count = rows.shape[1]
    mean = rows.mean(1, keepdim=True)
    if count < 2:
        return torch.zeros_like(mean), mean
    lowest = (rows - mean).sort(1).values.cumsum(1)[:, :-1]
    below = torch.arange(1, count)
    above = count - below
    cut = (lowest.square() / (below * above)).argmax(1, keepdim=True)
    total = lowest.gather(1, cut)
    below, above = below[cut], above[cut]
    return -total * (1 / above + 1 / below), mean + total / below


def least_squares(rows: torch.Tensor, bits: int) -> Fit:
    """Scale and bias of nearly least squared error at 8, 4 or 2 bits.

    Like the greedy search of Guan et al. (Post-training 4-bit quantization on embedding tables, 2019), it moves the ends of the range
    inwards; unlike it, both ends on a grid, and from each pair of ends it takes the regression of the values on their codes, which is the
    best scale and bias for those codes. Codes and regression then alternate from the best pair, each of which can only lower the error.
    """
    levels = (1 << bits) - 1
    mean = rows.mean(1, keepdim=True)
    centred = rows - mean
    low, high = centred.amin(1, keepdim=True), centred.amax(1, keepdim=True)
    step = (high - low) / levels
    gain, scale, bias = torch.zeros_like(low), step, low
    for from_low, from_high in itertools.product(_MOVES, _MOVES):
        start = step * ((levels - from_low - from_high) / levels)
        found, new_scale, new_bias = _regress(centred, start, low + from_low * step, levels)
        better = found > gain
        gain = torch.where(better, found, gain)
        scale, bias = torch.where(better, new_scale, scale), torch.where(better, new_bias, bias)
    for _ in range(_POLISHING_STEPS):
        _, scale, bias = _regress(centred, scale, bias, levels)
    return scale, bias + mean


def codes_of(rows: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, levels: int) -> torch.Tensor:
    """The codes of the values, as float32; as torch does it, with the reciprocal of the scale."""
    return (rows - bias).mul_(1 / scale).round_().clamp_(0, levels)


def _regress(
    centred: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, levels: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The regression of centred rows on their codes: by how much it lowers the sum of squares, the scale and the bias."""
    codes = codes_of(centred, torch.where(scale == 0, 1.0, scale), bias, levels)
    middle = codes.mean(1, keepdim=True)
    codes -= middle
    variance = codes.square().sum(1, keepdim=True)
    product = codes.mul_(centred).sum(1, keepdim=True)
    known = variance > 0.1  # of integers that differ it is 1/2 at least; of equal ones rounding may leave a trace
    new = torch.where(known, product / variance.clamp(min=0.1), scale)
    gain = torch.where(known, product * new, 0.0)
    return gain, new, torch.where(known, -new * middle, bias)
