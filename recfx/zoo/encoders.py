"""The common part of models that give every user and every item an embedding, whose dot product is the score."""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.errors import require
from recfx.zoo.pairs import PairModel


class Encoder(PairModel):
    """A pair model whose score is the dot product of two embeddings; returns scores [B].

    Training computes all embeddings at once; retrieval stores them.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        dim: Columns of the two tables of free embeddings, with one row per user and per item.
        std: Standard deviation of the normal distribution of their initial values.

    Raises:
        ZooError: A size is below 1.
    """

    def __init__(self, num_users: int, num_items: int, dim: int, std: float = 0.1) -> None:
        super().__init__(num_users, num_items)
        require(dim >= 1, f"tables need at least one column, got {dim}", where=type(self).__name__)
        self.users = nn.Embedding(num_users, dim)
        self.items = nn.Embedding(num_items, dim)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=std)

    @abstractmethod
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The final embeddings of all users [num_users, d] and all items [num_items, d], with gradients if these are enabled."""

    def base_rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The free embeddings of users, int64 [m], and items, int64 [n], to which an L2 penalty applies."""
        return self.users(users), self.items(items)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """int64 [B], int64 [B] -> scores [B]."""
        user_vectors, item_vectors = self.embeddings()
        return (F.embedding(users, user_vectors) * F.embedding(items, item_vectors)).sum(1)
