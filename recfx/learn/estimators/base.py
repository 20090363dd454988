"""The interface of estimators: rounding in the forward pass, and a choice of gradient in the backward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Estimator(nn.Module, ABC):
    """Rounds to the grid {0, 1/L, .., 1} and defines the gradient of the rounding. The forward pass is the same for all
    estimators: clip to [0, 1], then round. They differ in the backward pass, since the true derivative is zero nearly
    everywhere.

    Attributes:
        repeatable: Whether the same call always gives the same result; False if the estimator draws at random.
    """

    repeatable: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """Rounds.

        Args:
            x: [n, d], embeddings over their bounds, (x - l) / (u - l), not clipped.
            steps: L = 2**bits - 1.
            span: u - l, broadcastable to x.

        Returns:
            [n, d], on the grid.
        """

    def scale_bounds(self, bounds: Tensor, shared: float, steps: int) -> Tensor:
        """Returns the bounds for the quantiser; an estimator may change the gradient that reaches them.

        Args:
            bounds: Lower or upper bounds.
            shared: How many values share one bound.
            steps: L.
        """
        return bounds

    def start_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins, counted from 0; for estimators that follow a schedule."""


def to_grid(x: Tensor, steps: int) -> Tensor:
    """round(clip(x, 0, 1) * L) / L; a new tensor. Halves round to the even code."""
    return x.clamp(0, 1).mul_(steps).round_().div_(steps)


def place_in_cell(x: Tensor, steps: int) -> Tensor:
    """The position of x between the two nearest grid values: -1 at the lower, 0 at the threshold, 1 at the upper. At
    one bit this is 2 x - 1, the embedding over its scale. Beyond the ends of the grid, the position is below -1 or
    above 1.
    """
    scaled = x * steps
    cell = scaled.floor().clamp_(0, steps - 1)
    return scaled.sub_(cell).mul_(2).sub_(1)


class Surrogate(torch.autograd.Function):
    """Rounds to the grid in the forward pass; uses a given derivative d x_q / d x in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Tensor, steps: int) -> Tensor:
        """Rounds x; `derivative` has its shape."""
        ctx.save_for_backward(derivative)
        return to_grid(x, steps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The gradient times the derivative."""
        (derivative,) = ctx.saved_tensors
        return grads[0] * derivative, None, None
