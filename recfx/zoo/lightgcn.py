"""LightGCN: He et al. 2020, "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.errors import require
from recfx.zoo.pairs import PairModel
from recfx.zoo.sampling import sample_ids

_SEED = 0


class NormalizedAdjacency(nn.Module):
    """D^-1/2 A D^-1/2 of the bipartite graph of users (first) and items, as compressed sparse rows (equation 7).

    A product with it is one weighted bag a row: on CPUs several times faster than torch.sparse and a hundred times
    faster than index_add, with dense buffers throughout. A row without neighbours gives zeros.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        interactions: int64 [2, E], users over items; repeated pairs count once.

    Raises:
        ZooError: Interactions of another form, or ids out of range.
    """

    offsets: Tensor
    neighbours: Tensor
    weights: Tensor

    def __init__(self, num_users: int, num_items: int, interactions: Tensor) -> None:
        super().__init__()
        require(
            interactions.dtype == torch.int64 and interactions.ndim == 2 and len(interactions) == 2,
            f"interactions must be int64 [2, E], got {interactions.dtype} {list(interactions.shape)}",
            where="LightGCN",
            hint="torch.stack([users, items])",
        )
        for name, ids, count in zip(("user", "item"), interactions, (num_users, num_items), strict=True):
            require(
                ids.numel() == 0 or (int(ids.min()) >= 0 and int(ids.max()) < count),
                f"interactions hold {name} ids outside [0, {count})",
                where="LightGCN",
            )
        pairs = torch.unique(interactions[0] * num_items + interactions[1])
        users, items = pairs // num_items, pairs % num_items + num_users
        sources, targets = torch.cat([users, items]), torch.cat([items, users])
        order = sources.argsort(stable=True)
        degrees = torch.bincount(sources, minlength=num_users + num_items)
        self.register_buffer("offsets", torch.cat([degrees.new_zeros(1), degrees.cumsum(0)]))
        self.register_buffer("neighbours", targets[order])
        scale = degrees.double().rsqrt()  # infinite where there is no neighbour, and then never used
        self.register_buffer("weights", (scale[sources] * scale[targets])[order].float())

    def forward(self, x: Tensor) -> Tensor:
        """[users + items, D] -> the product, of the same shape."""
        return F.embedding_bag(
            self.neighbours, x, self.offsets, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


class LightGCN(PairModel):
    """Scores pairs by dot products of embeddings averaged over 0 to `layers` propagations; returns scores [B].

    Inputs: `users` int64 [B] in [0, num_users); `items` int64 [B] in [0, num_items). Every call propagates all
    embeddings anew, as in training; for one fixed set of weights that is a constant. The default sizes are those of
    the paper's Gowalla.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        interactions: int64 [2, E], the users and items of the training interactions; or how many to draw, from Zipf
            distributions of exponent 1, the same each time.
        dim: Columns of the tables; the paper's 64.
        layers: Number of propagations; the paper's 3.

    Raises:
        ZooError: A size below 1, or interactions that do not fit, see `NormalizedAdjacency`.
    """

    def __init__(
        self,
        num_users: int = 29_858,
        num_items: int = 40_981,
        interactions: Tensor | int = 810_128,
        *,
        dim: int = 64,
        layers: int = 3,
    ) -> None:
        super().__init__(num_users, num_items)
        require(layers >= 0, f"the number of layers must not be negative, got {layers}", where="LightGCN")
        if isinstance(interactions, int):
            interactions = _draw(num_users, num_items, interactions)
        self.adjacency = NormalizedAdjacency(num_users, num_items, interactions)
        self.layers = layers
        self.users = nn.Embedding(num_users, dim)
        self.items = nn.Embedding(num_items, dim)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

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

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The final embeddings (equations 4 and 8): [num_users, dim] and [num_items, dim]."""
        layer = torch.cat([self.users.weight, self.items.weight])
        total = layer
        for _ in range(self.layers):
            layer = self.adjacency(layer)
            total = total + layer
        mean = total / (self.layers + 1)
        return mean[: self.num_users], mean[self.num_users :]

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """int64 [B], int64 [B] -> scores [B]."""
        user_vectors, item_vectors = self.propagate()
        return (F.embedding(users, user_vectors) * F.embedding(items, item_vectors)).sum(1)


def _draw(num_users: int, num_items: int, count: int) -> Tensor:
    """`count` interactions of popular users with popular items, int64 [2, count]; pairs may repeat."""
    generator = torch.Generator().manual_seed(_SEED)
    users = sample_ids(num_users, (count,), zipf=1.0, generator=generator)
    return torch.stack([users, sample_ids(num_items, (count,), zipf=1.0, generator=generator)])
