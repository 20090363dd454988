"""Bounds of each row at plus and minus its largest magnitude, as weights of dense layers are stored in int8."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn.bounds.base import Bounds

_LEAST_SHARE = 0.05


class SymmetricRowBounds(Bounds):
    """Plus and minus the largest magnitude of each row, or a learned share of it.

    A share clips the row's largest value to its bound, so that the bound is the largest magnitude of the rounded row: quantising it again
    changes nothing.

    Args:
        rows: The number of rows with a learned share each, from 1 on; None: the share stays 1.

    Raises:
        InputError: No rows.
    """

    row_wise: ClassVar[bool] = True

    def __init__(self, rows: int | None = None) -> None:
        super().__init__()
        if rows is not None and rows < 1:
            raise InputError(
                f"shares of {rows} rows cannot be learned",
                where="SymmetricRowBounds",
                hint="pass the number of rows of the weight",
            )
        self.share = None if rows is None else nn.Parameter(torch.ones(rows, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Bounds.forward`; [n, 1].

        Raises:
            InputError: The shares are those of another number of rows.
        """
        upper = x.abs().amax(1, keepdim=True)
        if self.share is not None:
            if len(self.share) != len(x):
                raise InputError(
                    f"shares of {len(self.share)} rows cannot fit {list(x.shape)}",
                    where="SymmetricRowBounds",
                    hint="pass the whole weight",
                )
            upper = upper * self.share.clamp(_LEAST_SHARE, 1.0)
        return -upper, upper
