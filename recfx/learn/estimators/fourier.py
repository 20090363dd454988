"""The Fourier-series estimator of BGCH: Chen et al. 2023, "Bipartite Graph Convolutional Hashing for Effective and
Efficient Top-N Search in Hamming Space"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.estimators.base import Estimator, Surrogate, place_in_cell


class FourierSeries(Estimator):
    """A truncated Fourier series of the square wave replaces the step at each threshold.

    sign(z) = (4 / pi) * sum over odd i of sin(i w z) / i for |z| < H, w = pi / H, so that the derivative is
    clamp((4 w / pi) * sum over odd i < terms of cos(i w z), -1, 1). z is the position between the two nearest grid
    values, from -1 to 1. Beyond one period the series does not approximate the sign, and no gradient passes.

    Args:
        terms: N; the paper uses 4, 8 and 16.
        half_period: H, in units of half the distance of neighbouring grid values.

    Raises:
        InputError: `terms` is below 2, or the period is not positive.
    """

    def __init__(self, terms: int = 4, half_period: float = 2.0) -> None:
        super().__init__()
        if terms < 2 or not (math.isfinite(half_period) and half_period > 0):
            raise InputError(
                f"a series needs at least 2 terms and a positive period, got {terms} and {half_period}",
                where="FourierSeries",
                hint="pass terms=2 or more and a positive half_period",
            )
        self.terms = terms
        self.half_period = half_period

    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """See `Estimator.forward`."""
        frequency = math.pi / self.half_period
        with torch.no_grad():
            z = place_in_cell(x, steps)
            derivative = torch.zeros_like(z)
            for i in range(1, self.terms, 2):
                derivative.add_(torch.cos(i * frequency * z))
            derivative.mul_(4 * frequency / math.pi).clamp_(-1, 1)
            derivative.mul_(z.abs() < self.half_period)
        rounded: Tensor = Surrogate.apply(x, derivative, steps)
        return rounded
