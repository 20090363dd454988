"""STE: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recfx.learn.estimators.base import Estimator, to_grid


class StraightThrough(Estimator):
    """The gradient passes through rounding unchanged, g_xn = g_xq.

    Args:
        clip: Make the gradient zero outside the bounds, which is the derivative of clipping. If False, values outside
            still learn; with one bit and narrow bounds, they would otherwise never change.
    """

    def __init__(self, *, clip: bool = True) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """See `Estimator.forward`."""
        return straight_through(x, steps, self.clip)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int, clip: bool) -> Tensor:
        ctx.save_for_backward(*([(x >= 0) & (x <= 1)] if clip else []))
        return to_grid(x, steps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        return (grad * ctx.saved_tensors[0] if ctx.saved_tensors else grad), None, None


def straight_through(x: Tensor, steps: int, clip: bool) -> Tensor:
    """[n, d] -> the nearest grid values, with the gradient of clipping, or with the gradient of the identity."""
    rounded: Tensor = _StraightThrough.apply(x, steps, clip)
    return rounded
