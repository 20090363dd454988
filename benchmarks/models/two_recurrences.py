"""Two recurrent layers and an attention over a history, as in DIEN without its attentional update gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import MLP, ItemEmbeddings, masked_softmax


class TwoRecurrences(HistoryModel):
    """Interests by a GRU, their evolution by a second GRU over the weighted interests, an MLP; returns logits [B].

    Args:
        num_users: Number of users.
        num_items: Number of items.
        length: Places in a history.
        dim: Columns of the tables.
        categories: The items' categories, see `recfx.zoo.layers.ItemEmbeddings`.
        state: Width of both recurrent states.
        hidden: Hidden widths of the MLP.
    """

    def __init__(
        self,
        num_users: int = 192_403,
        num_items: int = 63_001,
        length: int = 30,
        *,
        dim: int = 32,
        categories: int = 801,
        state: int = 64,
        hidden: Sequence[int] = (200, 80),
    ) -> None:
        super().__init__(num_users, num_items, length)
        self.items = ItemEmbeddings(num_items, dim, categories)
        width = self.items.out_features
        self.users = nn.Embedding(num_users, dim)
        self.extractor = nn.GRU(width, state, batch_first=True)
        self.evolution = nn.GRU(state, state, batch_first=True)
        self.relevance = nn.Linear(width, state, bias=False)
        self.mlp = MLP(dim + width + state, hidden, 1)

    @classmethod
    def small(cls, **overrides: Any) -> TwoRecurrences:
        """Thirty users, forty items, histories of five."""
        sizes: dict[str, Any] = {"num_users": 30, "num_items": 40, "length": 5, "dim": 4, "categories": 6}
        return cls(**{**sizes, "state": 6, "hidden": (8,), **overrides})

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> logits [B]."""
        target = self.items(item)
        interests, _ = self.extractor(self.items(history))
        scores = torch.bmm(interests, self.relevance(target)[:, :, None]).squeeze(2)
        weights = masked_softmax(scores, history != 0)
        _, last = self.evolution(interests * weights[:, :, None])
        logits: Tensor = self.mlp(torch.cat([self.users(user), target, last[0]], 1)).squeeze(1)
        return logits
