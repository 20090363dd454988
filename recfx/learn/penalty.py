"""The L2 penalty of the rows that a batch uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def row_penalty(table: Tensor, counts: Tensor) -> Tensor:
    """sum over r of counts[r] / 2 * |table[r]|^2: half the squared length of every row, times the number of its uses in
    a batch. It equals half the sum of squares of the gathered rows, without a gathered copy and without a scattered
    gradient: the gradient is counts[r] * table[r].

    Args:
        table: Floating point [N, D].
        counts: [N], the number of uses of each row, such as `torch.bincount(ids, minlength=N)`; of any real dtype.

    Returns:
        A scalar, differentiable with respect to the table any number of times.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    if table.ndim != 2 or counts.shape != table.shape[:1]:
        raise ValueError(f"expected a table [N, D] and counts [N], got {list(table.shape)} and {list(counts.shape)}")
    penalty: Tensor = _RowPenalty.apply(table, counts.to(table.dtype))
    return penalty


class _RowPenalty(torch.autograd.Function):
    @staticmethod
    def forward(table: Tensor, counts: Tensor) -> Tensor:
        penalty: Tensor = torch.linalg.vecdot(table, table) @ counts / 2
        return penalty

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        table, counts = ctx.saved_tensors
        return table * (gradients[0] * counts).unsqueeze(1), None
