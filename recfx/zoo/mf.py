"""Matrix factorisation, trained by BPR: Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback"."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from recfx.zoo.encoders import Encoder


class MatrixFactorization(Encoder):
    """Scores pairs by dot products of one free embedding per user and one per item; returns scores [B].

    Inputs: `users` int64 [B] in [0, num_users); `items` int64 [B] in [0, num_items). The default sizes are Gowalla's.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        dim: Columns of the tables.

    Raises:
        ZooError: A size is below 1.
    """

    def __init__(self, num_users: int = 29_858, num_items: int = 40_981, *, dim: int = 64) -> None:
        super().__init__(num_users, num_items, dim)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items; see `ZooModel.small`."""
        return cls(**{"num_users": 30, "num_items": 40, "dim": 4, **overrides})

    @classmethod
    def for_interactions(cls, num_users: int, num_items: int, **overrides: Any) -> Self:
        """The model for pairs of users and items; ids from 0; `overrides` are arguments of the constructor."""
        return cls(num_users, num_items, **overrides)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The two tables, [num_users, dim] and [num_items, dim]."""
        return self.users.weight, self.items.weight

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings of users, int64 [m], and items, int64 [n]: [m, dim] and [n, dim]."""
        return self.users(users), self.items(items)
