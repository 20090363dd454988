"""Bounds of each row about the mean of all rows, which costs one row and spares every sign from saying the same."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.bounds.base import ObservingBounds
from recfx.learn.bounds.per_row import PerRowBounds, RowStatistic


class CentredRowBounds(ObservingBounds):
    """`PerRowBounds` of the rows less the mean of all rows.

    Embeddings of recommenders share a direction, that of popularity: most values of a column have one sign, and a sign
    says little. About the mean of its column it says more. With centres c and c', a score is

        <c + x, c' + y> = <c, c'> + <x, c'> + <c, y> + <x, y>,

    of which <x, c'> is the same for all items of a user: items are ranked by the score of their codes and one constant
    an item, <c, y>.

    Args:
        bits: Bits of the quantiser.
        dim: Columns.
        statistic: See `PerRowBounds`.
        momentum: The centre follows the means of the blocks as an exponential moving average; at least 0 (the last block
            alone) and below 1.
        groups: See `PerRowBounds`.
        through: Let gradients pass through the bounds as well; none pass through the centre.

    Raises:
        InputError: A number out of range, or another statistic.
    """

    row_wise: ClassVar[bool] = True
    mean: Tensor

    def __init__(
        self,
        bits: int,
        dim: int,
        statistic: RowStatistic | None = None,
        *,
        momentum: float = 0.95,
        groups: int = 1,
        through: bool = True,
    ) -> None:
        super().__init__(dim)
        if not 0 <= momentum < 1:
            raise InputError(f"the momentum must be at least 0 and below 1, got {momentum}", where="CentredRowBounds")
        self.momentum = momentum
        self.rows = PerRowBounds(bits, statistic, groups=groups, through=through)
        self.register_buffer("mean", torch.zeros(1, dim))

    @property
    def centre(self) -> Tensor:
        """The moving average of the mean row, [1, d]; zeros before anything was observed."""
        return self.mean

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Moves the centre towards the mean row of a block [n, d]; an empty one changes nothing.

        Raises:
            InputError: The block holds NaN or infinities, or has another number of dimensions.
        """
        self.check_dim(x)
        if not x.numel():
            return
        mean = x.mean(0, keepdim=True).to(self.mean)
        self.remember((self.mean, self.mean.lerp(mean, 1 - self.momentum) if self.ready else mean))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds for a block [n, d] whose centre was taken off; see `PerRowBounds.forward`.

        Raises:
            InputError: Nothing was observed yet, or x has another number of dimensions.
        """
        self.require_ready(x)
        lower, upper = self.rows(x)
        return lower, upper
