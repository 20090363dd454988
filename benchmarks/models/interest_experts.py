"""Target attention over a history, shared by the experts of several tasks: DIN and MMoE in one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recfx.zoo.din import ActivationUnit
from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import MLP, ItemEmbeddings


class InterestExperts(HistoryModel):
    """User, activated interest and item through gated experts; returns logits [B, tasks].

    Args:
        num_users: Number of users.
        num_items: Number of items.
        length: Places in a history.
        dim: Columns of the tables.
        categories: The items' categories, see `recfx.zoo.layers.ItemEmbeddings`.
        attention: Hidden widths of the activation unit.
        experts: Number of experts.
        expert: Hidden widths of each expert.
        tasks: Number of tasks.
        tower: Hidden widths of each task's tower.
    """

    def __init__(
        self,
        num_users: int = 192_403,
        num_items: int = 63_001,
        length: int = 50,
        *,
        dim: int = 32,
        categories: int = 801,
        attention: Sequence[int] = (80, 40),
        experts: int = 6,
        expert: Sequence[int] = (256, 128),
        tasks: int = 3,
        tower: Sequence[int] = (64,),
    ) -> None:
        super().__init__(num_users, num_items, length)
        self.items = ItemEmbeddings(num_items, dim, categories)
        self.users = nn.Embedding(num_users, dim)
        width = self.items.out_features
        self.attention = ActivationUnit(width, attention, activation="prelu")
        inputs = dim + 2 * width
        self.experts = nn.ModuleList(MLP(inputs, expert) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(inputs, experts) for _ in range(tasks))
        self.towers = nn.ModuleList(MLP(expert[-1], tower, 1) for _ in range(tasks))

    @classmethod
    def small(cls, **overrides: Any) -> InterestExperts:
        """Thirty users, forty items, histories of five."""
        sizes: dict[str, Any] = {"num_users": 30, "num_items": 40, "length": 5, "dim": 4, "categories": 6}
        return cls(**{**sizes, "experts": 2, "expert": (8, 6), "tower": (4,), "attention": (6, 4), **overrides})

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> logits [B, tasks]."""
        target = self.items(item)
        interest = self.attention(target, self.items(history), history != 0)
        x = torch.cat([self.users(user), interest, target], 1)
        experts = torch.stack([expert(x) for expert in self.experts], 1)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            mixed = (torch.softmax(gate(x), 1)[:, :, None] * experts).sum(1)
            logits.append(tower(mixed))
        return torch.cat(logits, 1)
