"""Bounds that learn by gradient, as those of EWGS and LSQ do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recfx.learn.bounds.base import RememberedBounds
from recfx.learn.bounds.statistics import Statistic, measure


class LearnedBounds(RememberedBounds):
    """Bounds as parameters; the first block that is observed sets them.

    Through x_hat = l + (u - l) x_q the gradient of the upper bound is x_q - x_n inside the bounds, 1 above and 0 below,
    that of the lower bound likewise: what rounding lost, or all that clipping took.

    Args:
        bits: Bits of the quantiser.
        statistic: Where they start; see `recfx.learn.bounds.statistics.measure`.
        dim: One pair of bounds for each of so many dimensions; None: one pair for all values.
        percent: Of the percentiles.
        sigmas: Number of standard deviations; None: what leaves the least squared error on normally distributed values.
        centred: Standard deviations about the mean rather than zero.

    Raises:
        InputError: A number out of range.
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
            InputError: The block holds NaN or infinities, or has another number of dimensions.
        """
        self.check_dim(x)
        if x.numel() and not self.ready:
            self.set_bounds(*self._measure(x))
