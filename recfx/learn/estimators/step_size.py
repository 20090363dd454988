"""LSQ: Esser et al. 2020, "Learned Step Size Quantization"."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recfx.learn.estimators.base import Estimator
from recfx.learn.estimators.straight_through import straight_through


class LearnedStepSize(Estimator):
    """Straight-through for the values; the gradient of the step is scaled by 1 / sqrt(N L). With x_hat = l + s *
    round((x - l) / s) and v = (x - l) / s, the gradient of the step is round(v) - v inside the bounds, and the lowest
    or the highest code outside. Learned bounds already have this gradient. The scale keeps the step's updates in
    proportion to those of the N values that share it. With bounds that are not learned this is the straight-through
    estimator.

    Args:
        clip: See `StraightThrough`; the paper clips.
    """

    def __init__(self, *, clip: bool = True) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """See `Estimator.forward`."""
        return straight_through(x, steps, self.clip)

    def scale_bounds(self, bounds: Tensor, shared: float, steps: int) -> Tensor:
        """The bounds, with their gradient scaled by 1 / sqrt(N L)."""
        scaled: Tensor = _ScaledGradient.apply(bounds, 1 / math.sqrt(max(shared, 1.0) * steps))
        return scaled


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None
