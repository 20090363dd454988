"""NGCF: Wang et al. 2019, "Neural Graph Collaborative Filtering"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.encoders import Encoder
from recfx.zoo.errors import require
from recfx.zoo.graph import NormalizedAdjacency
from recfx.zoo.lightgcn import as_interactions

_SLOPE = 0.2


class PropagationLayer(nn.Module):
    """E' = leaky_relu((A + I) E W1 + (A E * E) W2) (equation 7), A the normalised adjacency, * element by element.

    Both maps have biases and the slope is 0.2, as in the authors' code.

    Args:
        inputs: Columns of E.
        outputs: Columns of E'.
        dropout: Share of the elements of E' dropped in training.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.sum = nn.Linear(inputs, outputs)
        self.product = nn.Linear(inputs, outputs)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.sum, self.product):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        """E and A E, both [N, inputs] -> E' [N, outputs]."""
        message = self.sum(x + neighbours) + self.product(x * neighbours)
        dropped: Tensor = self.dropout(F.leaky_relu(message, _SLOPE))
        return dropped


class NGCF(Encoder):
    """Scores pairs by dot products of embeddings joined over all layers; returns scores [B].

    Inputs: `users` int64 [B] in [0, num_users); `items` int64 [B] in [0, num_items). The embeddings of layer 0 are
    free; those of the other layers have rows of length 1, as in the authors' code.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        interactions: int64 [2, E], the users and items of the training interactions; or how many to draw, see
            `LightGCN`.
        dim: Columns of the tables; the paper's 64.
        layers: Columns of each propagation layer; the paper's three of 64.
        dropout: Dropout of each layer's result in training; the paper tunes it, 0.1 on Gowalla.

    Raises:
        ZooError: A size is below 1, the dropout is outside [0, 1), or the interactions do not fit, see
            `NormalizedAdjacency`.
    """

    def __init__(
        self,
        num_users: int = 29_858,
        num_items: int = 40_981,
        interactions: Tensor | int = 810_128,
        *,
        dim: int = 64,
        layers: Sequence[int] = (64, 64, 64),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_users, num_items, dim)
        require(all(width >= 1 for width in layers), f"layers need columns, got {list(layers)}", where="NGCF")
        require(0 <= dropout < 1, f"dropout must be in [0, 1), got {dropout}", where="NGCF")
        self.adjacency = NormalizedAdjacency(num_users, num_items, as_interactions(num_users, num_items, interactions))
        widths = [dim, *layers]
        self.layers = nn.ModuleList(PropagationLayer(inputs, outputs, dropout) for inputs, outputs in pairwise(widths))

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items, at most a hundred interactions; see `ZooModel.small`."""
        return cls(**{"num_users": 30, "num_items": 40, "interactions": 100, "dim": 4, "layers": (6, 3), **overrides})

    @classmethod
    def for_interactions(cls, num_users: int, num_items: int, users: Tensor, items: Tensor, **overrides: Any) -> Self:
        """The model for a set of training interactions; see `LightGCN.for_interactions`."""
        return cls(num_users, num_items, torch.stack([users, items]), **overrides)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The concatenation of all layers (equation 8): [num_users, dim + sum of layers] and [num_items, the same]."""
        x = torch.cat([self.users.weight, self.items.weight])
        parts = [x]
        for layer in self.layers:
            x = layer(x, self.adjacency(x))
            parts.append(F.normalize(x, dim=1))
        users, items = torch.split(torch.cat(parts, dim=1), [self.num_users, self.num_items])
        return users, items
