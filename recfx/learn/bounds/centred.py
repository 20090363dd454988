"""Bounds of each row about the mean of all rows. The mean costs one stored row and makes the signs of a column differ
between rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.bounds.base import ObservingBounds
from recfx.learn.bounds.per_row import PerRowBounds, RowStatistic


class CentredRowBounds(ObservingBounds):
    """`PerRowBounds` of the rows after subtraction of the mean of all rows.

    Embeddings of recommenders share a direction, that of popularity: most values of a column have the same sign, so the
    sign carries little information. A sign about the mean of the column carries more. With centres c and c', a score is

        <c + x, c' + y> = <c, c'> + <x, c'> + <c, y> + <x, y>,

    where <x, c'> is the same for all items of a user: items are ranked by the score of their codes and one constant per
    item, <c, y>.

    Args:
        bits: Bits of the quantiser.
        dim: Columns.
        statistic: See `PerRowBounds`.
        momentum: The centre follows the means of the blocks as an exponential moving average; at least 0 (the last block
            alone) and below 1.
        groups: See `PerRowBounds`.
        through: Let gradients pass through the bounds as well; no gradient passes through the centre.

    Raises:
        InputError: A number is out of range, or the statistic is unknown.
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
            raise InputError(
                f"the momentum must be at least 0 and below 1, got {momentum}",
                where="CentredRowBounds",
                hint="pass a momentum such as 0.99",
            )
        self.momentum = momentum
        self.rows = PerRowBounds(bits, statistic, groups=groups, through=through)
        self.register_buffer("mean", torch.zeros(1, dim))

    @property
    def centre(self) -> Tensor:
        """The moving average of the mean row, [1, d]; zeros before the first block."""
        return self.mean

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Moves the centre towards the mean row of a block [n, d]; an empty one changes nothing.

        Raises:
            InputError: The block holds NaN or infinities, or has another number of columns.
        """
        self.check_dim(x)
        if not x.numel():
            return
        mean = x.mean(0, keepdim=True).to(self.mean)
        self.remember((self.mean, self.mean.lerp(mean, 1 - self.momentum) if self.ready else mean))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the bounds for a block [n, d] after subtraction of the centre; see `PerRowBounds.forward`.

        Raises:
            InputError: No block was observed yet, or x has another number of columns.
        """
        self.require_ready(x)
        lower, upper = self.rows(x)
        return lower, upper
