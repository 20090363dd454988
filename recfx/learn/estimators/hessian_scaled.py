"""GSTE: gradients scaled element by element with the trace of the Hessian, as in HQ-GNN (arXiv 2309.01032).

From g(x_n) ~ g(x_q) + H (x_n - x_q), keeping the diagonal of H and replacing h_ii / |g_i| by one number delta:

    g_xn = g_xq * (1 + delta * sign(g_xq) * (x_n - x_q)),        delta = max(0, (Tr(H) / N) / G)

after Lee et al. 2021, "Network Quantization with Element-wise Gradient Scaling". `recfx.learn.Curvature` keeps delta up
to date.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.estimators.base import Estimator, to_grid


class HessianScaled(Estimator):
    """The factor of the gradient is above 1 where sign(g_xq) * (x_n - x_q) is positive, and below 1 where it is
    negative.

    Args:
        delta: The initial scale; at 0 this is the straight-through estimator, bit for bit. It changes only through
            `set_delta`.
        clamp: Clamp the factor at 0; without it, the factor can be negative if delta > 2 * (2**bits - 1).
        clip: See `StraightThrough`; outside the bounds the factor is 1.

    Attributes:
        delta: Floating point [], the current scale.

    Raises:
        InputError: delta is negative or not finite.
    """

    delta: Tensor

    def __init__(self, delta: float = 0.0, *, clamp: bool = True, clip: bool = True) -> None:
        super().__init__()
        self.clamp = clamp
        self.clip = clip
        self.register_buffer("delta", torch.zeros(()))
        self.set_delta(delta)

    def set_delta(self, delta: float) -> None:
        """Sets the scale.

        Raises:
            InputError: It is negative or not finite.
        """
        if not math.isfinite(delta) or delta < 0:
            raise InputError(
                f"delta must be finite and not negative, got {delta}",
                where="HessianScaled",
                hint="pass 0 or a positive number",
            )
        self.delta.fill_(delta)

    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """See `Estimator.forward`."""
        rounded: Tensor = _HessianScaled.apply(x, self.delta, steps, (self.clamp, self.clip))
        return rounded


class _HessianScaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, steps: int, switches: tuple[bool, bool]) -> Tensor:
        ctx.save_for_backward(x, delta)
        ctx.steps, (ctx.clamp, ctx.clip) = steps, switches
        return to_grid(x, steps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, delta = ctx.saved_tensors
        (grad,) = grads
        off = x.clamp(0, 1).sub_(to_grid(x, ctx.steps))
        factor = off.mul_(grad.sign()).mul_(delta).add_(1)
        if ctx.clamp:
            factor.clamp_(min=0)
        if ctx.clip:
            factor.mul_((x >= 0) & (x <= 1))
        return factor.mul_(grad), None, None, None
