"""BST: Chen et al. 2019, "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import MLP, ItemEmbeddings, SelfAttention


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer network with LeakyReLU, each with dropout, residual, LayerNorm (equations 5, 6).

    Args:
        width: Width of the vectors.
        heads: Heads of the attention; divides `width`.
        dropout: Share of the outputs dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, width] and bool [B, 1, L], True for items -> [B, L, width]."""
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        out: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return out


class BST(HistoryModel):
    """A transformer over the history followed by the item, and an MLP over all its outputs; returns logits [B].

    Inputs: `user` int64 [B] in [0, num_users); `item` int64 [B] in [1, num_items]; `history` int64 [B, length] of
    item ids, oldest first, padded with zeros on the right. The paper's position of a past item is the time since;
    here it is the number of later items, since times are not given: 1 for the latest item, 0 for the candidate.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        length: Places in a history; the paper's 20.
        dim: Columns of the tables, including that of the positions.
        categories: The items' categories, see `ItemEmbeddings`.
        layers: Number of transformer layers; the paper's 1.
        heads: Heads of each; the paper's 8.
        hidden: Hidden widths of the MLP; the paper's.
        dropout: Share dropped in training; the paper's 0.2.
    """

    def __init__(
        self,
        num_users: int = 192_403,
        num_items: int = 63_001,
        length: int = 20,
        *,
        dim: int = 16,
        categories: Tensor | int = 801,
        layers: int = 1,
        heads: int = 8,
        hidden: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(num_users, num_items, length)
        self.items = ItemEmbeddings(num_items, dim, categories)
        self.users = nn.Embedding(num_users, dim)
        self.positions = nn.Embedding(length + 1, dim)
        for table in (self.users, self.positions):
            nn.init.normal_(table.weight, std=0.01)
        width = self.items.out_features + dim
        self.layers = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(layers))
        self.mlp = MLP(dim + (length + 1) * width, hidden, 1, activation="leaky_relu", dropout=dropout)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Thirty users, forty items, histories of five; see `ZooModel.small`."""
        sizes = {"num_users": 30, "num_items": 40, "length": 5, "dim": 4, "categories": 6}
        return cls(**{**sizes, "heads": 2, "hidden": (8, 4), **overrides})

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> logits [B]."""
        sequence = torch.cat([history, item[:, None]], dim=1)
        mask = sequence != 0
        since = mask.sum(1, keepdim=True) - mask.cumsum(1)  # items after this one
        x = torch.cat([self.items(sequence), self.positions(since)], dim=2)
        for layer in self.layers:
            x = layer(x, mask[:, None])
        x = x * mask[:, :, None]
        logits: Tensor = self.mlp(torch.cat([self.users(user), x.flatten(1)], dim=1)).squeeze(1)
        return logits
