"""DIN: Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import MLP, ItemEmbeddings, masked_softmax


class ActivationUnit(nn.Module):
    """Target attention: an MLP of a past item and the candidate gives the weight of the past item (equation 2).

    The MLP sees query, key, their difference and their product. The weights are not normalised, so that their sum
    keeps the intensity of the interest; padding has weight 0.

    Args:
        width: Width of an item.
        hidden: Hidden widths of the MLP.
        activation: Its activation.
        softmax: Whether to normalise the weights by a softmax.
    """

    def __init__(self, width: int, hidden: Sequence[int], *, activation: str = "dice", softmax: bool = False) -> None:
        super().__init__()
        self.mlp = MLP(4 * width, hidden, 1, activation=activation)
        self.softmax = softmax

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """[B, width], [B, L, width] and bool [B, L], True for items -> the weighted sum of the keys, [B, width]."""
        queries = query[:, None].expand_as(keys)
        weights = self.mlp(torch.cat([queries, keys, queries - keys, queries * keys], dim=2)).squeeze(2)
        weights = masked_softmax(weights, mask) if self.softmax else weights * mask
        return torch.bmm(weights[:, None], keys).squeeze(1)


class DIN(HistoryModel):
    """User, activated interest and item through an MLP; returns logits [B].

    Inputs: `user` int64 [B] in [0, num_users); `item` int64 [B] in [1, num_items]; `history` int64 [B, length] of
    item ids, padded with zeros anywhere. The default sizes are those of the paper's Amazon electronics.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        length: Places in a history.
        dim: Columns of the tables.
        categories: The items' categories, see `ItemEmbeddings`.
        attention: Hidden widths of the activation unit; 80-40 in the authors' code.
        hidden: Hidden widths of the MLP; 200-80 in the paper.
        activation: Activation of both, the paper's Dice.
        softmax: Whether the attention is normalised; not in the paper.
    """

    def __init__(
        self,
        num_users: int = 192_403,
        num_items: int = 63_001,
        length: int = 50,
        *,
        dim: int = 64,
        categories: Tensor | int = 801,
        attention: Sequence[int] = (80, 40),
        hidden: Sequence[int] = (200, 80),
        activation: str = "dice",
        softmax: bool = False,
    ) -> None:
        super().__init__(num_users, num_items, length)
        self.items = ItemEmbeddings(num_items, dim, categories)
        width = self.items.out_features
        self.users = nn.Embedding(num_users, dim)
        nn.init.normal_(self.users.weight, std=0.01)
        self.attention = ActivationUnit(width, attention, activation=activation, softmax=softmax)
        self.mlp = MLP(dim + 2 * width, hidden, 1, activation=activation)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items, histories of five; see `ZooModel.small`."""
        sizes = {"num_users": 30, "num_items": 40, "length": 5, "dim": 4, "categories": 6}
        return cls(**{**sizes, "attention": (6, 4), "hidden": (8, 4), **overrides})

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> logits [B]."""
        target = self.items(item)
        interest = self.attention(target, self.items(history), history != 0)
        logits: Tensor = self.mlp(torch.cat([self.users(user), interest, target], dim=1)).squeeze(1)
        return logits
