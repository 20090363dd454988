"""LightGCN: He et al. 2020, "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from recfx.zoo.encoders import Encoder
from recfx.zoo.errors import require
from recfx.zoo.graph import NormalizedAdjacency
from recfx.zoo.sampling import sample_ids

_SEED = 0


class LightGCN(Encoder):
    """Scores pairs by dot products of embeddings averaged over 0 to `layers` propagations; returns scores [B].

    Inputs: `users` int64 [B] in [0, num_users); `items` int64 [B] in [0, num_items). Every call propagates all
    embeddings, as in training; with fixed weights the result is a constant. The default sizes are those of
    the paper's Gowalla.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        interactions: int64 [2, E], the users and items of the training interactions; or how many to draw, from Zipf
            distributions of exponent 1, the same each time.
        dim: Columns of the tables; the paper's 64.
        layers: Number of propagations; the paper's 3.
        weights: `layers + 1` weights, that of the free embeddings first; None for equal weights, as in the paper.

    Raises:
        ZooError: A size is below 1, the number of weights is wrong, or the interactions do not fit, see
            `NormalizedAdjacency`.
    """

    def __init__(
        self,
        num_users: int = 29_858,
        num_items: int = 40_981,
        interactions: Tensor | int = 810_128,
        *,
        dim: int = 64,
        layers: int = 3,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_users, num_items, dim)
        self.adjacency = NormalizedAdjacency(num_users, num_items, as_interactions(num_users, num_items, interactions))
        require(layers >= 0, f"the number of layers must not be negative, got {layers}", where="LightGCN")
        self.layers = layers
        self.weights = [1 / (layers + 1)] * (layers + 1) if weights is None else [float(weight) for weight in weights]
        require(
            len(self.weights) == layers + 1,
            f"{layers} layers need {layers + 1} weights, got {len(self.weights)}",
            where="LightGCN",
            hint="the first weight is that of the free embeddings",
        )

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items, at most a hundred interactions; see `ZooModel.small`."""
        return cls(**{"num_users": 30, "num_items": 40, "interactions": 100, "dim": 4, "layers": 2, **overrides})

    @classmethod
    def for_interactions(cls, num_users: int, num_items: int, users: Tensor, items: Tensor, **overrides: Any) -> Self:
        """The model for a set of training interactions.

        Args:
            num_users: Number of users; ids from 0.
            num_items: Number of items; ids from 0.
            users: int64 [E], the user of each interaction.
            items: int64 [E], the item of each.
            overrides: Further arguments of the constructor.
        """
        return cls(num_users, num_items, torch.stack([users, items]), **overrides)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The final embeddings (equations 4 and 8): [num_users, dim] and [num_items, dim]."""
        final = self.adjacency.combine(torch.cat([self.users.weight, self.items.weight]), self.weights)
        users, items = torch.split(final, [self.num_users, self.num_items])
        return users, items


def as_interactions(num_users: int, num_items: int, interactions: Tensor | int) -> Tensor:
    """The given interactions, or the given number of random ones from Zipf distributions, int64 [2, count]; pairs may repeat."""
    if isinstance(interactions, Tensor):
        return interactions
    generator = torch.Generator().manual_seed(_SEED)
    users = sample_ids(num_users, (interactions,), zipf=1.0, generator=generator)
    return torch.stack([users, sample_ids(num_items, (interactions,), zipf=1.0, generator=generator)])
