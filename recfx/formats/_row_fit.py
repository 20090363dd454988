"""Scale and bias of the rows of a row-wise table, which `encode_rows` chooses before it rounds values to codes.

Every function takes float32 rows [R, D] and gives scale and bias, float32 [R, 1], not yet rounded to half precision.
"""

from __future__ import annotations

import itertools

import torch

Fit = tuple[torch.Tensor, torch.Tensor]

#: Steps of a code by which the search for the least squared error moves the ends of a row inwards.
_MOVES = (0.0, 0.3, 0.6, 0.9, 1.2)
_POLISHING_STEPS = 2


def spread(rows: torch.Tensor, bits: int) -> Fit:
    """From the row's minimum, rounded to half precision, to its maximum. A bias of zero is positive."""
    bias = rows.amin(1, keepdim=True).half().float() + 0.0
    return (rows.amax(1, keepdim=True) - bias) / ((1 << bits) - 1), bias


def two_levels(rows: torch.Tensor) -> Fit:
    """The two values of least squared error.

    For given values, each number goes to the nearer one, so the best partition of a row is a cut of its sorted numbers. For a given cut,
    the best values are the means of its two sides. They lower the row's sum of squares about its mean by `S² n / (k (n - k))`, where S is
    the sum of the k lowest numbers less k means; the best cut has the largest such term. (A cut at the mean, which binary networks
    take by the sign, is best only for symmetric rows.)
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
    inwards. Unlike that search, it tries all pairs of ends on a grid. From each pair it takes the regression of the values on their codes,
    which is the best scale and bias for those codes. Starting from the best pair, codes and regression alternate; neither increases
    the error.
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
    """The codes of the values, as float32. Like torch, it multiplies by the reciprocal of the scale."""
    return (rows - bias).mul_(1 / scale).round_().clamp_(0, levels)


def _regress(
    centred: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, levels: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The regression of centred rows on their codes: the decrease of the sum of squares, the scale and the bias."""
    codes = codes_of(centred, torch.where(scale == 0, 1.0, scale), bias, levels)
    middle = codes.mean(1, keepdim=True)
    codes -= middle
    variance = codes.square().sum(1, keepdim=True)
    product = codes.mul_(centred).sum(1, keepdim=True)
    known = variance > 0.1  # at least 1/2 if codes differ; if all are equal, rounding may leave a little more than 0
    new = torch.where(known, product / variance.clamp(min=0.1), scale)
    gain = torch.where(known, product * new, 0.0)
    return gain, new, torch.where(known, -new * middle, bias)
