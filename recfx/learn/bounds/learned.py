"""Bounds that learn by gradient, as in EWGS and LSQ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recfx.learn.bounds.base import RememberedBounds
from recfx.learn.bounds.statistics import Statistic, measure


class LearnedBounds(RememberedBounds):
    """Bounds as parameters; the first block that is observed sets them.

    With x_hat = l + (u - l) x_q, the gradient of the upper bound is x_q - x_n inside the bounds, 1 above and 0 below;
    the gradient of the lower bound is its mirror image. It is the error of rounding inside the bounds, and the whole
    gradient where values are clipped.

    Args:
        bits: Bits of the quantiser.
        statistic: Where they start; see `recfx.learn.bounds.statistics.measure`.
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
        statistic: Statistic = "sigma",
        *,
        dim: int | None = None,
        percent: float = 99.9,
        sigmas: float | None = None,
        centred: bool = False,
    ) -> None:
        super().__init__(dim)
        self.bits, self.statistic, self.percent, self.sigmas, self.centred = bits, statistic, percent, sigmas, centred
        self._measure = measure(
            statistic, bits, percent=percent, sigmas=sigmas, centred=centred, per_dimension=dim is not None
        )

    def _place(self, lower: Tensor, upper: Tensor) -> None:
        self.lower = nn.Parameter(lower)
        self.upper = nn.Parameter(upper)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Sets the bounds from the first block [n, d] that is not empty; later ones change nothing.

        Raises:
            InputError: The block holds NaN or infinities, or has another number of columns.
        """
        self.check_dim(x)
        if x.numel() and not self.ready:
            self.set_bounds(*self._measure(x))
