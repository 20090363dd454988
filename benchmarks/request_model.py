"""Models with separate inputs of the request and of the candidates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.lookup_model import multi_hot_ids


class HalvedDLRM(nn.Module):
    """DLRM with the fields in two inputs: the first fields and the dense features belong to the request.

    Args:
        tables: Rows of each table.
        user_fields: How many of the fields belong to the request.
        dim: Columns of every table.
        bottom: Hidden widths of the bottom MLP.
        top: Hidden widths of the top MLP.
    """

    def __init__(
        self, *, tables: Sequence[int], user_fields: int, dim: int, bottom: Sequence[int], top: Sequence[int]
    ) -> None:
        from recfx import zoo

        super().__init__()
        self.dlrm = zoo.build("dlrm", tables=tables, dim=dim, bottom=bottom, top=top)
        self.user_rows, self.item_rows = tuple(tables[:user_fields]), tuple(tables[user_fields:])
        self.dim = dim

    def forward(self, dense: Tensor, user: Tensor, item: Tensor) -> Tensor:
        """float [B, 13], int64 [B, user fields], int64 [B, item fields] -> logits [B]."""
        logits: Tensor = self.dlrm(dense, torch.cat([user, item], dim=1))
        return logits

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(dense, user, item)`."""
        generator = torch.Generator().manual_seed(seed)
        dense = torch.randn(batch, 13, generator=generator)
        user, item = (
            multi_hot_ids(rows, [1] * len(rows), batch, zipf, generator) for rows in (self.user_rows, self.item_rows)
        )
        return dense, user, item


class HeavyUserTower(nn.Module):
    """A ranker with most of its arithmetic on the user: a tower over the user's fields, and a head over the tower's
    output and the item's fields.

    Args:
        tables: Rows of each table.
        user_fields: How many of the fields belong to the request.
        dim: Columns of every table.
        tower: Widths of the user's tower.
        head: Hidden widths of the head.
    """

    def __init__(
        self, *, tables: Sequence[int], user_fields: int, dim: int, tower: Sequence[int], head: Sequence[int]
    ) -> None:
        super().__init__()
        self.user_rows, self.item_rows = tuple(tables[:user_fields]), tuple(tables[user_fields:])
        self.user_tables = nn.ModuleList(nn.Embedding(rows, dim) for rows in self.user_rows)
        self.item_tables = nn.ModuleList(nn.Embedding(rows, dim) for rows in self.item_rows)
        self.tower = _mlp([len(self.user_rows) * dim, *tower])
        self.head = _mlp([tower[-1] + len(self.item_rows) * dim, *head])
        self.output = nn.Linear(head[-1], 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """int64 [B, user fields], int64 [B, item fields] -> logits [B]."""
        users = torch.cat([table(user[:, field]) for field, table in enumerate(self.user_tables)], dim=1)
        items = torch.cat([table(item[:, field]) for field, table in enumerate(self.item_tables)], dim=1)
        logits: Tensor = self.output(self.head(torch.cat([self.tower(users), items], dim=1))).squeeze(1)
        return logits

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(user, item)`."""
        generator = torch.Generator().manual_seed(seed)
        user, item = (
            multi_hot_ids(rows, [1] * len(rows), batch, zipf, generator) for rows in (self.user_rows, self.item_rows)
        )
        return user, item


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)
