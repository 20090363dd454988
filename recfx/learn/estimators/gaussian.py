"""BiGeaR's estimator: Chen et al. 2022, "Learning Binarized Graph Representations with Multi-faceted Quantization
Reinforcement for Top-K Recommendation"."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.estimators.base import Estimator, Surrogate, place_in_cell

_SMALLEST = 1e-8


class GaussianDirac(Estimator):
    """A Gaussian replaces the Dirac delta at each threshold, without clipping.

    At one bit d sign(z) / dz = clamp(gamma / sqrt(pi) * exp(-(gamma z)^2), 1e-8, 1). With more bits z is the position
    between the two nearest grid values, from -1 to 1.

    Args:
        gamma: The factor that narrows the Gaussian.
        units: The unit of z. "bounds": half the distance of neighbouring grid values. "embedding": the unit of the
            embeddings, as in the paper; the gradient then also has the scale of the row or table as a factor, like the
            gradient of scale * sign(x).

    Raises:
        InputError: gamma is not positive.
    """

    def __init__(self, gamma: float = 1.0, units: Literal["bounds", "embedding"] = "bounds") -> None:
        super().__init__()
        if not (math.isfinite(gamma) and gamma > 0):
            raise InputError(
                f"gamma must be positive, got {gamma}", where="GaussianDirac", hint="pass a positive number"
            )
        self.gamma = gamma
        self.units = units

    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """See `Estimator.forward`."""
        with torch.no_grad():
            half_cell = span / (2 * steps) if self.units == "embedding" else None
            place = place_in_cell(x, steps)
            z = place if half_cell is None else place * half_cell
            derivative = (self.gamma / math.sqrt(math.pi)) * torch.exp(-((self.gamma * z) ** 2))
            derivative.clamp_(_SMALLEST, 1)
            if half_cell is not None:
                derivative.mul_(half_cell)
        rounded: Tensor = Surrogate.apply(x, derivative, steps)
        return rounded
