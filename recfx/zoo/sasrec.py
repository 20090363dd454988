"""SASRec: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation"."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import ZooModel
from recfx.zoo.errors import require
from recfx.zoo.layers import SelfAttention, padded_table
from recfx.zoo.sampling import sample_histories, sample_ids, seeded


class SASRecBlock(nn.Module):
    """Causal self-attention, then a point-wise network, each as x + dropout(g(LayerNorm(x))) (section 3.2).

    Args:
        dim: Width of the vectors.
        heads: Heads of the attention; divides `dim`.
        inner: Width of the point-wise network.
        dropout: Share dropped in training.
    """

    def __init__(self, dim: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, output=False, bias=False)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, dim] and bool [B, L, L], True where a row may attend to a column -> [B, L, dim]."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class SASRec(ZooModel):
    """Scores candidates by their dot products with the state at the history's last item; returns [B, C].

    Inputs: `history` int64 [B, length] of item ids 1 to num_items, oldest first, padded with zeros on the right (a
    history may be empty); `candidates` int64 [B, C] in [1, num_items]. Candidates and history share one table
    (equation 6). The default sizes are Amazon beauty's.

    Args:
        num_items: Number of items; the table has one more row, for the padding.
        length: Places in a history; the paper's 50 (200 for MovieLens).
        dim: Width of all vectors; the paper's 50.
        layers: Number of blocks; the paper's 2.
        heads: Heads of each; the paper's 1.
        inner: Width of the point-wise networks; None for the paper's, `dim`.
        dropout: Share dropped in training; the paper's 0.5 (0.2 for MovieLens).
        candidates: Candidates per row of `example_inputs`; the paper's 101.

    Raises:
        ZooError: A size is below 1, or the heads do not divide the width.
    """

    causal: Tensor

    def __init__(
        self,
        num_items: int = 12_101,
        length: int = 50,
        *,
        dim: int = 50,
        layers: int = 2,
        heads: int = 1,
        inner: int | None = None,
        dropout: float = 0.5,
        candidates: int = 101,
    ) -> None:
        super().__init__()
        require(
            min(num_items, length, candidates) >= 1,
            f"sizes must be at least 1, got {num_items} items, histories of {length}, {candidates} candidates",
            where="SASRec",
        )
        self.num_items = num_items
        self.length = length
        self.candidates = candidates
        self.scale = math.sqrt(dim)
        self.items = padded_table(num_items, dim)
        self.positions = nn.Embedding(length, dim)
        nn.init.normal_(self.positions.weight, std=0.01)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(SASRecBlock(dim, heads, inner or dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("causal", torch.ones(length, length, dtype=torch.bool).tril(), persistent=False)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Forty items, histories of five, two heads; see `ZooModel.small`."""
        return cls(**{"num_items": 40, "length": 5, "dim": 4, "heads": 2, "candidates": 3, **overrides})

    @classmethod
    def for_interactions(cls, num_users: int, num_items: int, *, length: int = 50, **overrides: Any) -> Self:
        """The model for sequences of items.

        Args:
            num_users: Not used, since a user is only a history; all models have the same arguments.
            num_items: Number of items; ids from 1, as 0 is the padding of histories.
            length: Places in a history.
            overrides: Further arguments of the constructor.
        """
        return cls(num_items=num_items, length=length, **overrides)

    def states(self, history: Tensor) -> Tensor:
        """int64 [B, L] -> the state after each item, [B, L, dim]; zeros at the padding."""
        mask = history != 0
        x = self.items(history) * self.scale + self.positions.weight
        x = self.dropout(x) * mask[:, :, None]
        allowed = self.causal & mask[:, None]
        for block in self.blocks:
            x = block(x, allowed) * mask[:, :, None]
        states: Tensor = self.norm(x) * mask[:, :, None]
        return states

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """int64 [B, L], int64 [B, C] -> scores [B, C]; all 0 for an empty history."""
        states = self.states(history)
        last = ((history != 0).sum(1) - 1).clamp(min=0)
        state = states.gather(1, last[:, None, None].expand(-1, -1, states.shape[2]))
        return torch.bmm(self.items(candidates), state.transpose(1, 2)).squeeze(2)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(history, candidates)`, with histories of 0 to `length` items; see `ZooModel.example_inputs`."""
        generator = seeded(seed, batch)
        history = sample_histories(self.num_items, batch, self.length, zipf=zipf, generator=generator)
        ids = sample_ids(self.num_items, (batch, self.candidates), zipf=zipf, generator=generator)
        return history, 1 + ids
