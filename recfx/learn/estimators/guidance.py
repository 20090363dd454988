"""HashGNN's guidance: Tan et al. 2020, "Learning to Hash with Graph Neural Networks for Recommender Systems"."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.estimators.base import Estimator
from recfx.learn.estimators.straight_through import straight_through


class Guidance(Estimator):
    """In training each row is rounded with probability beta and left continuous otherwise; beta rises from 0 to 1 and
    then stays at 1. The gradient is the straight-through gradient for both kinds of rows. Outside training all rows are
    rounded.

    Args:
        rise: The increment of beta; the paper's code has 0.02.
        every: Epochs between two increments; the paper's code has 2.
        clip: See `StraightThrough`.

    Attributes:
        beta: Floating point [], the current probability.

    Raises:
        InputError: `rise` is outside 0 to 1, or `every` is below 1.
    """

    repeatable: ClassVar[bool] = False
    beta: Tensor

    def __init__(self, rise: float = 0.02, every: int = 2, *, clip: bool = True) -> None:
        super().__init__()
        if not 0 < rise <= 1 or every < 1:
            raise InputError(
                f"beta cannot rise by {rise} every {every} epochs",
                where="Guidance",
                hint="pass a rise of at least 0 and a positive number of epochs",
            )
        self.rise = rise
        self.every = every
        self.clip = clip
        self.register_buffer("beta", torch.zeros(()))

    def start_epoch(self, epoch: int) -> None:
        """Sets beta for the epoch."""
        self.beta.fill_(min(1.0, self.rise * (epoch // self.every)))

    def forward(self, x: Tensor, steps: int, span: Tensor) -> Tensor:
        """See `Estimator.forward`; draws from torch's global generator of the device."""
        rounded = straight_through(x, steps, self.clip)
        if not self.training:
            return rounded
        draws = torch.rand(*x.shape[:-1], 1, dtype=x.dtype, device=x.device)
        return torch.where(draws < self.beta, rounded, x.clamp(0, 1) if self.clip else x)
