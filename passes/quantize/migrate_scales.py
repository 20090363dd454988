"""Scale migration: factors of the columns of a layer's input that move the range of columns with large numbers into the weights.

An int8 layer quantises a row of its input with one scale. If one column is a thousand times larger than the others, all others round to
zero. With factors f, `x W^T = (x f) (W / f)^T`; f = 1 / s with s_j = max|x_j|^a / max|w_j|^(1 - a) levels the columns of the input at the
expense of those of the weight (Xiao et al. 2023, SmoothQuant, equation 4). Factors are powers of two, so that neither x f nor W / f has a
rounding error of its own, and at most one, so that x f does not overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.formats import quantize_per_channel
from recfx.ops.mlp import product

#: The exponents a that are tried.
EXPONENTS = (0.25, 0.5, 0.75, 1.0)
#: Factors are at least this.
_LEAST = 2.0**-24
#: The part of the squared error that factors must remove: less is not worth their multiplication.
_GAIN = 0.05


def column_factors(x: Tensor, weight: Tensor, *, clip: bool = False) -> Tensor | None:
    """The factors of the least squared error of a layer's output; None if none is clearly better than without.

    Ranges are taken from every other row and errors from the rows between, so that factors must hold on rows that they were not made of.

    Args:
        x: Rows of the input, float32 [M, K].
        weight: float32 [N, K].
        clip: See `quantize_per_channel`.

    Returns:
        float32 [K], powers of two of at most 1.
    """
    x, weight = x[x.isfinite().all(1)], weight.detach()
    if not x.numel() or not bool(x.any()):
        return None
    chosen, measured = x[::2], x[1::2] if len(x) > 1 else x
    wanted = measured.double() @ weight.double().T
    limit = (1 - _GAIN) * _error(measured, weight, None, wanted, clip)
    everywhere = _error(x, weight, None, None, clip)
    best: Tensor | None = None
    for exponent in EXPONENTS:
        factor = _factors(chosen, weight, exponent)
        error = _error(measured, weight, factor, wanted, clip)
        if error < limit and _error(x, weight, factor, None, clip) < everywhere:
            best, limit = factor, error
    return best


def _factors(x: Tensor, weight: Tensor, exponent: float) -> Tensor:
    """The factors of an exponent. Columns that are zero throughout, in the rows or in the weight, get the median of the others."""
    inputs, weights = x.abs().amax(0).double(), weight.abs().amax(0).double()
    used = (inputs > 0) & (weights > 0)
    if not bool(used.any()):
        return torch.ones(x.shape[1])
    levels = (weights.where(used, 1.0).log2() * (1 - exponent) - inputs.where(used, 1.0).log2() * exponent).round()
    levels = levels.where(used, levels[used].median())
    factors: Tensor = torch.exp2(levels - levels.max()).clamp(min=_LEAST).float()
    return factors


def _error(x: Tensor, weight: Tensor, factor: Tensor | None, wanted: Tensor | None, clip: bool) -> float:
    """The squared error of the products of rows with the int8 weight."""
    scaled = weight if factor is None else weight / factor
    if not bool(scaled.isfinite().all()):
        return torch.inf
    codes, scale = quantize_per_channel(scaled, clip=clip)
    with torch.no_grad():
        got = product(x, codes, None, scale, 0.0, factor).double()
    exact = x.double() @ weight.double().T if wanted is None else wanted
    return float((got - exact).square().sum().nan_to_num(nan=torch.inf))
