"""Calibrated scales: one symmetric scale for all rows of a layer's input, instead of one for each row.

A scale takes x to `round(x / scale)` between -127 and 127. A limit above which numbers are clipped gives the scale `limit / 127`.

    min-max     the largest magnitude
    percentile  a magnitude that 99.9 % of the numbers do not exceed
    mse         the limit of the least squared error
    entropy     the limit of the least Kullback-Leibler divergence of the rounded from the exact distribution (Migacz 2017, "8-bit
                Inference with TensorRT")
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Method = Literal["dynamic", "min-max", "percentile", "mse", "entropy"]
#: The methods that give one scale; "dynamic" gives each row its own in a call.
METHODS = ("dynamic", "min-max", "percentile", "mse", "entropy")

_LEVELS = 127
_SHARE = 0.999
#: Limits that are tried for the least squared error, as parts of the largest magnitude.
_PARTS = tuple(math.exp2(-step / 8) for step in range(49))
_BINS, _COARSE = 2048, 128


def input_scale(x: Tensor, method: Method) -> float:
    """The scale of a layer's input.

    Args:
        x: Rows of the input, float32.
        method: A method other than "dynamic".

    Returns:
        The scale; 0, which means a scale for each row, if the rows are zero or have infinities or NaN, or their scale is denormal.
    """
    magnitudes = x.detach().abs().reshape(-1)
    if not magnitudes.numel() or not bool(magnitudes.isfinite().all()) or not bool(magnitudes.any()):
        return 0.0
    scale: float = _LIMITS[method](magnitudes) / _LEVELS
    return scale if scale >= torch.finfo(torch.float32).tiny else 0.0


def _largest(magnitudes: Tensor) -> float:
    return float(magnitudes.max())


def _percentile(magnitudes: Tensor) -> float:
    place = min(int(_SHARE * len(magnitudes)), len(magnitudes) - 1)
    found = float(magnitudes.kthvalue(place + 1).values)
    return found or _largest(magnitudes)


def _squared_error(magnitudes: Tensor) -> float:
    largest = _largest(magnitudes)

    def error(limit: float) -> float:
        step = limit / _LEVELS
        rounded = (magnitudes / step).round().clamp(max=_LEVELS) * step
        return float((rounded - magnitudes).double().square().sum())

    limits = [largest * part for part in _PARTS]
    return min(limits, key=error)


def _entropy(magnitudes: Tensor) -> float:
    """Every limit keeps a number of bins; numbers beyond count in the last one. The kept bins are merged into 128 levels."""
    largest = _largest(magnitudes)
    counts = torch.histc((magnitudes[magnitudes > 0] / largest).float(), _BINS, 0.0, 1.0).double()
    found = {kept: _divergence(counts, kept) for kept in range(_COARSE, _BINS + 1, 16)}
    return largest * min(found, key=found.__getitem__) / _BINS


def _divergence(counts: Tensor, kept: int) -> float:
    exact = counts[:kept].clone()
    inside = counts[:kept]
    exact[-1] += counts[kept:].sum()
    level = torch.arange(kept) * _COARSE // kept
    filled = (inside > 0).double()
    totals, members = (torch.zeros(_COARSE, dtype=torch.float64).index_add_(0, level, v) for v in (inside, filled))
    rounded = (totals / members.clamp(min=1))[level] * filled
    p, q = exact / exact.sum(), rounded / rounded.sum().clamp(min=1e-12)
    missing = (p > 0) & (q <= 0)
    if bool(missing.any()):
        q = q.where(~missing, 1e-9)
    places = p > 0
    return float((p[places] * (p[places] / q[places]).log()).sum())


_LIMITS = {"min-max": _largest, "percentile": _percentile, "mse": _squared_error, "entropy": _entropy}
