"""NeuMF: He et al. 2017, "Neural Collaborative Filtering"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.layers import MLP
from recfx.zoo.pairs import PairModel


class NeuMF(PairModel):
    """Generalised matrix factorisation and an MLP, each with its own tables, joined by a linear layer; returns logits [B].

    Inputs: `users` int64 [B] in [0, num_users); `items` int64 [B] in [0, num_items). The default sizes are
    MovieLens-1M's.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        factors: Columns of the factorisation's tables.
        dim: Columns of the MLP's tables.
        hidden: Hidden widths of the MLP.
    """

    def __init__(
        self,
        num_users: int = 6_040,
        num_items: int = 3_706,
        *,
        factors: int = 64,
        dim: int = 64,
        hidden: Sequence[int] = (128, 64),
    ) -> None:
        super().__init__(num_users, num_items)
        self.user_factors = nn.Embedding(num_users, factors)
        self.item_factors = nn.Embedding(num_items, factors)
        self.user_embeddings = nn.Embedding(num_users, dim)
        self.item_embeddings = nn.Embedding(num_items, dim)
        for table in (self.user_factors, self.item_factors, self.user_embeddings, self.item_embeddings):
            nn.init.normal_(table.weight, std=0.01)
        self.mlp = MLP(2 * dim, hidden)
        self.output = nn.Linear(factors + self.mlp.out_features, 1)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items; see `ZooModel.small`."""
        return cls(**{"num_users": 30, "num_items": 40, "factors": 3, "dim": 4, "hidden": (8, 4), **overrides})

    @classmethod
    def for_interactions(cls, num_users: int, num_items: int, **overrides: Any) -> Self:
        """The model for pairs of users and items; ids from 0; `overrides` are arguments of the constructor."""
        return cls(num_users=num_users, num_items=num_items, **overrides)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """int64 [B], int64 [B] -> logits [B]."""
        product = self.user_factors(users) * self.item_factors(items)
        joined = torch.cat([self.user_embeddings(users), self.item_embeddings(items)], dim=1)
        logits: Tensor = self.output(torch.cat([product, self.mlp(joined)], dim=1)).squeeze(1)
        return logits
