"""Bounds that follow the batches as exponential moving averages of a statistic."""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.bounds.base import RememberedBounds
from recfx.learn.bounds.statistics import Statistic, measure


class MovingBounds(RememberedBounds):
    """Bounds b <- momentum * b + (1 - momentum) * statistic(batch); the first batch sets them.

    Args:
        bits: Bits of the quantiser.
        statistic: See `recfx.learn.bounds.statistics.measure`.
        momentum: At least 0 (the last batch alone) and below 1.
        symmetric: Widen the narrower side, so that the bounds are +-the larger magnitude.
        dim: Number of columns, each with its own bounds; None: one pair of bounds for all values.
        percent: The percentile of the statistic "percentile".
        sigmas: Number of standard deviations; None: the number of least squared error on normally distributed values.
        centred: Measure standard deviations about the mean, not about zero.

    Raises:
        InputError: A number is out of range.
    """

    def __init__(
        self,
        bits: int,
        statistic: Statistic = "minmax",
        *,
        momentum: float = 0.99,
        symmetric: bool = False,
        dim: int | None = None,
        percent: float = 99.9,
        sigmas: float | None = None,
        centred: bool = False,
    ) -> None:
        super().__init__(dim)
        if not 0 <= momentum < 1:
            raise InputError(
                f"the momentum must be at least 0 and below 1, got {momentum}",
                where="MovingBounds",
                hint="pass a momentum such as 0.99",
            )
        self.momentum = momentum
        self.symmetric = symmetric
        self.bits, self.statistic, self.percent, self.sigmas, self.centred = bits, statistic, percent, sigmas, centred
        self._measure = measure(
            statistic, bits, percent=percent, sigmas=sigmas, centred=centred, per_dimension=dim is not None
        )

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Moves the bounds towards those of a block [n, d]; an empty one changes nothing.

        Raises:
            InputError: The block holds NaN or infinities, or has another number of columns.
        """
        self.check_dim(x)
        if not x.numel():
            return
        lower, upper = self._measure(x)
        if self.symmetric:
            upper = torch.maximum(lower.abs(), upper.abs())
            lower = -upper
        if self.ready:
            lower = self.lower.lerp(lower.to(self.lower), 1 - self.momentum)
            upper = self.upper.lerp(upper.to(self.upper), 1 - self.momentum)
        self.set_bounds(lower, upper)
