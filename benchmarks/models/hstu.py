"""Hierarchical sequential transduction units over a history."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.history import HistoryModel
from recfx.zoo.layers import padded_table, split_heads


class Block(nn.Module):
    """One unit: attention by SiLU in place of a softmax, gated by a fourth projection.

    Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations", equations 1 to 3.

    Args:
        width: Width of the states.
        heads: Number of heads.
        length: Places in a sequence.
    """

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.length = heads, length
        self.norm, self.mixed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projected = nn.Linear(width, 4 * width)
        self.mixed = nn.Linear(width, width)
        self.distance_bias = nn.Parameter(torch.randn(2 * length - 1) * 0.02)
        places = torch.arange(length)
        self.register_buffer("distances", places[:, None] - places + length - 1, persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, width] and bool [B, 1, L, L], True where a row may read a column -> [B, L, width]."""
        gate, value, query, key = F.silu(self.projected(self.norm(x))).chunk(4, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))
        scores = query @ key.transpose(-2, -1) + self.distance_bias[self.get_buffer("distances")]
        weights = F.silu(scores) / self.length * mask
        attended = (weights @ value).transpose(1, 2).flatten(2)
        out: Tensor = x + self.mixed(self.mixed_norm(attended) * gate)
        return out


class HSTU(HistoryModel):
    """Scores an item by the last state of a user's sequence; returns logits [B].

    Args:
        num_users: Number of users, whose ids add a vector to every place.
        num_items: Number of items.
        length: Places in a history.
        width: Width of the states.
        heads: Heads of a block.
        blocks: Number of blocks.
    """

    def __init__(
        self,
        num_users: int = 6_040,
        num_items: int = 3_706,
        length: int = 64,
        *,
        width: int = 64,
        heads: int = 2,
        blocks: int = 2,
    ) -> None:
        super().__init__(num_users, num_items, length)
        self.users = nn.Embedding(num_users, width)
        self.items = padded_table(num_items, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, length) for _ in range(blocks))
        self.register_buffer("earlier", torch.ones(length, length).tril().bool(), persistent=False)

    @classmethod
    def small(cls, **overrides: Any) -> HSTU:
        """Thirty users, forty items, histories of five."""
        return cls(**{"num_users": 30, "num_items": 40, "length": 5, "width": 8, **overrides})

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        """int64 [B], int64 [B], int64 [B, L] -> logits [B]."""
        taken = history != 0
        x = self.items(history) + self.places + self.users(user)[:, None]
        mask = self.get_buffer("earlier") & taken[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        last = (taken.sum(1) - 1).clamp(min=0)
        state = x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)
        logits: Tensor = (F.normalize(state, dim=1) * self.items(item)).sum(1)
        return logits
