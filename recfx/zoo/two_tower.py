"""Two towers, after DSSM: Huang et al. 2013, "Learning Deep Structured Semantic Models for Web Search using Clickthrough
Data"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.errors import require
from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import MLP, ItemEmbeddings, padded_table


class TwoTower(HistoryModel):
    """A user tower, an item tower, and the cosine of their outputs times a smoothing factor; returns scores [B].

    The user tower reads a user id and the mean of the items in the history (a query's bag of words in the paper). The
    item tower reads an item id and its category.

    Inputs: `user` int64 [B] in [0, num_users); `item` int64 [B] in [1, num_items]; `history` int64 [B, length] of
    item ids, padded with zeros anywhere. The default sizes are MovieLens-1M's.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        length: Places in a history.
        dim: Columns of the tables.
        categories: The items' categories, see `ItemEmbeddings`.
        tower: Widths of each tower; the paper's 300-300-128.
        activation: Activation of every layer, including the last; the paper's tanh.
        smoothing: Factor of the cosine (gamma in equation 5).

    Raises:
        ZooError: The towers have no layers.
    """

    def __init__(
        self,
        num_users: int = 6_040,
        num_items: int = 3_706,
        length: int = 50,
        *,
        dim: int = 64,
        categories: Tensor | int = 18,
        tower: Sequence[int] = (300, 300, 128),
        activation: str = "tanh",
        smoothing: float = 10.0,
    ) -> None:
        super().__init__(num_users, num_items, length)
        require(len(tower) >= 1, "the towers need at least one layer", where="TwoTower")
        self.users = nn.Embedding(num_users, dim)
        nn.init.normal_(self.users.weight, std=0.01)
        # The user tower has its own item table: the two towers share nothing, so that each can be served alone.
        self.history = nn.EmbeddingBag.from_pretrained(
            padded_table(num_items, dim).weight.detach(), freeze=False, mode="mean", padding_idx=0
        )
        self.items = ItemEmbeddings(num_items, dim, categories)
        self.user_tower = MLP(2 * dim, tower, activation=activation)
        self.item_tower = MLP(self.items.out_features, tower, activation=activation)
        self.smoothing = smoothing

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items, histories of five; see `ZooModel.small`."""
        sizes = {"num_users": 30, "num_items": 40, "length": 5, "dim": 4, "categories": 6}
        return cls(**{**sizes, "tower": (8, 4), **overrides})

    def user_vectors(self, user: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B, L] -> unit vectors [B, tower[-1]]."""
        features = torch.cat([self.users(user), self.history(history)], dim=1)
        return F.normalize(self.user_tower(features), dim=1)

    def item_vectors(self, item: Tensor) -> Tensor:
        """int64 [B] -> unit vectors [B, tower[-1]]."""
        return F.normalize(self.item_tower(self.items(item)), dim=1)

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> scores [B] in [-smoothing, smoothing]."""
        return self.smoothing * (self.user_vectors(user, history) * self.item_vectors(item)).sum(1)
