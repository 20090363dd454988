"""Bounds of each row by itself: they keep no statistics, and every row stores its own constants."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.bounds.base import BEST_SIGMAS, MEAN_ABS, Bounds

RowStatistic = Literal["minmax", "magnitude"]


class PerRowBounds(Bounds):
    """The extremes of each row, or +-a multiple of the mean magnitude of each row.

    At one bit "magnitude" is BiGeaR's mean|x| * sign(x), the scale of least squared error for a sign.

    Args:
        bits: Bits of the quantiser.
        statistic: "minmax" or "magnitude"; None: "magnitude" at 1 and 2 bits, otherwise "minmax", each of which has the
            smaller error on normal values.
        groups: Number of equal groups of columns, each with its own bounds, as for a graph network that concatenates
            its layers.
        through: Let gradients pass through the bounds as well.

    Raises:
        InputError: `groups` is below 1, or the statistic is unknown.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        bits: int,
        statistic: RowStatistic | None = None,
        *,
        groups: int = 1,
        through: bool = True,
    ) -> None:
        super().__init__()
        if groups < 1 or statistic not in (None, "minmax", "magnitude"):
            raise InputError(
                f"no bounds of {groups} groups by {statistic!r}",
                where="PerRowBounds",
                hint="pass groups=1 or more, and one of the statistics that PerRowBounds lists",
            )
        self.statistic = statistic or ("magnitude" if bits <= 2 else "minmax")
        self.bits = bits
        self.groups = groups
        self.through = through
        self._multiple = 1.0 if bits == 1 else BEST_SIGMAS[bits] / MEAN_ABS

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Bounds.forward`; [n, 1] with one group, [n, d] with more.

        Raises:
            InputError: The columns cannot be divided into the groups.
        """
        rows, dim = x.shape
        if dim % self.groups:
            raise InputError(
                f"{dim} columns cannot be divided into {self.groups} groups",
                where="PerRowBounds",
                hint="pass a number of groups that divides the columns",
            )
        with torch.set_grad_enabled(self.through and torch.is_grad_enabled()):
            parts = x.reshape(rows, self.groups, dim // self.groups)
            if self.statistic == "magnitude":
                upper = parts.abs().mean(2, keepdim=True) * self._multiple
                lower = -upper
            else:
                lower, upper = torch.aminmax(parts, dim=2, keepdim=True)
            return self._spread(lower, parts), self._spread(upper, parts)

    def _spread(self, bounds: Tensor, parts: Tensor) -> Tensor:
        if self.groups == 1:
            return bounds.squeeze(2)
        return bounds.expand_as(parts).reshape(len(parts), math.prod(parts.shape[1:]))
