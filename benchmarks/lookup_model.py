"""A model of only tables, to compare lookup kernels alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LookupModel(nn.Module):
    """A sum-pooled bag per field, side by side; returns [B, fields * dim].

    Args:
        tables: Rows of each table.
        hots: Ids per field.
        dim: Columns of every table.
    """

    def __init__(self, *, tables: Sequence[int], hots: Sequence[int], dim: int) -> None:
        super().__init__()
        self.rows = tuple(tables)
        self.hots = tuple(hots)
        self.bags = nn.ModuleList(sum_bag(rows, dim) for rows in tables)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, sum(hots)] with the fields side by side -> [B, fields * dim]."""
        fields = torch.split_with_sizes(ids, self.hots, dim=1)
        return torch.cat([bag(field) for bag, field in zip(self.bags, fields, strict=True)], dim=1)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(ids,)`."""
        return (multi_hot_ids(self.rows, self.hots, batch, zipf, torch.Generator().manual_seed(seed)),)


def sum_bag(rows: int, dim: int) -> nn.EmbeddingBag:
    """A bag that sums, uniform in 1 / sqrt(rows)."""
    bound = 1 / math.sqrt(rows)
    return nn.EmbeddingBag(rows, dim, mode="sum", _weight=torch.empty(rows, dim).uniform_(-bound, bound))


def multi_hot_ids(
    tables: Sequence[int], hots: Sequence[int], batch: int, zipf: float | None, generator: torch.Generator
) -> Tensor:
    """int64 [batch, sum(hots)], fields side by side; the ids of a field are independent draws."""
    from recfx.zoo import sample_ids

    ids = [
        sample_ids(rows, (batch, hot), zipf=zipf, generator=generator) for rows, hot in zip(tables, hots, strict=True)
    ]
    return torch.cat(ids, dim=1)
