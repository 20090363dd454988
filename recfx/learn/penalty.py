"""The L2 penalty of the rows that a batch uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def row_penalty(table: Tensor, counts: Tensor) -> Tensor:
    """sum over r of counts[r] / 2 * |table[r]|^2: half the squared length of every row, as often as a batch uses it.

    The same as gathering the rows and adding up their squares, without a gathered copy and without a scattered
    gradient: the gradient is counts[r] * table[r].

    Args:
        table: Floating point [N, D].
        counts: [N], how often each row is used, such as `torch.bincount(ids, minlength=N)`; of any real dtype.

    Returns:
        A scalar, differentiable with respect to the table any number of times.

    Raises:
        ValueError: Counts of another shape.
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
