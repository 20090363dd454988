"""Statistics that give the bounds of one block of embeddings: extremes, percentiles, standard deviations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.bounds.base import BEST_SIGMAS

Statistic = Literal["minmax", "percentile", "sigma"]

#: A block [n, d], not empty -> lower and upper bounds, [] or, per dimension, [1, d].
Measure = Callable[[Tensor], tuple[Tensor, Tensor]]

_SAMPLE = 1 << 16  # most values that a percentile is computed from: more values cost time and hardly change it


def extremes(x: Tensor, per_dimension: bool = False) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value, of all or of each column."""
    if not per_dimension:
        low, high = torch.aminmax(x)
        return low, high
    low, high = torch.aminmax(x, dim=0, keepdim=True)
    return low, high


def percentiles(x: Tensor, percent: float, per_dimension: bool = False) -> tuple[Tensor, Tensor]:
    """Returns the values at the ranks nearest to (100 - percent) % and percent %, of all or of each column. A block
    with more than 65,536 values is sampled by evenly spaced rows.
    """
    rows = x[:: max(1, x.numel() // _SAMPLE)]
    values = rows if per_dimension else rows.reshape(-1, 1)
    last = len(values) - 1
    cut = min(round((1 - percent / 100) * last), last // 2)
    low, high = values.kthvalue(1 + cut, 0, keepdim=True)[0], values.kthvalue(1 + last - cut, 0, keepdim=True)[0]
    return (low, high) if per_dimension else (low.reshape(()), high.reshape(()))


def deviations(x: Tensor, sigmas: float, centred: bool, per_dimension: bool = False) -> tuple[Tensor, Tensor]:
    """+-k times the root of the mean square, or, centred, the mean +-k standard deviations; of all or of each column."""
    if not per_dimension:
        mean = x.mean() if centred else x.new_zeros(())
        half = sigmas * (x - mean).square().mean().sqrt()
    else:
        mean = x.mean(0, keepdim=True) if centred else x.new_zeros((1, x.shape[1]))
        half = sigmas * (x - mean).square().mean(0, keepdim=True).sqrt()
    return mean - half, mean + half


def measure(
    statistic: Statistic,
    bits: int,
    *,
    percent: float = 99.9,
    sigmas: float | None = None,
    centred: bool = False,
    per_dimension: bool = False,
) -> Measure:
    """Returns the function that computes a statistic.

    Args:
        statistic: "minmax": the extremes; "percentile": see `percentiles`; "sigma": see `deviations`.
        bits: Bits of the quantiser, for the best number of standard deviations.
        percent: Above 50, at most 100.
        sigmas: Number of standard deviations; None: `BEST_SIGMAS`.
        centred: Measure standard deviations about the mean, not about zero.
        per_dimension: Compute the statistic for each column, not for all values together.

    Raises:
        InputError: The statistic is unknown, or a number is out of range.
    """
    if statistic == "minmax":
        return partial(extremes, per_dimension=per_dimension)
    if statistic == "percentile":
        if not 50 < percent <= 100:
            raise InputError(
                f"the percentile must be above 50 and at most 100, got {percent}",
                where="bounds",
                hint="pass a percentile such as 99.9",
            )
        return partial(percentiles, percent=percent, per_dimension=per_dimension)
    if statistic != "sigma":
        raise InputError(f"no statistic {statistic!r}", where="bounds", hint="one of minmax, percentile, sigma")
    sigmas = BEST_SIGMAS[bits] if sigmas is None else sigmas
    if not (math.isfinite(sigmas) and sigmas > 0):
        raise InputError(
            f"bounds need a positive number of standard deviations, got {sigmas}",
            where="bounds",
            hint="pass a number such as 3",
        )
    return partial(deviations, sigmas=sigmas, centred=centred, per_dimension=per_dimension)
