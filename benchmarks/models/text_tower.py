"""A two-tower model whose query tower encodes text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.layers import MLP, split_heads
from recfx.zoo.sampling import sample_ids, seeded


class EncoderLayer(nn.Module):
    """A layer of BERT: attention and a feed-forward part, each with a residual and a layer norm behind it.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".

    Args:
        width: Width of the states.
        heads: Number of heads.
        inner: Width of the feed-forward part.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, width] and bool [B, 1, 1, L], True for tokens -> [B, L, width]."""
        query, key, value = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norms[0](x + self.mixed(attended.transpose(1, 2).flatten(2)))
        inner = F.gelu(self.wide(x))
        out: Tensor = self.norms[1](x + self.narrow(inner))
        return out


class TextTower(nn.Module):
    """The cosine of a query, encoded by MiniLM's layers and averaged over its tokens, and an item; returns scores [B].

    Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers".

    Args:
        vocabulary: Number of tokens; token 0 is padding.
        length: Tokens of a query.
        width: Width of the encoder.
        layers: Layers of the encoder.
        heads: Heads of a layer.
        items: Number of items.
        dim: Columns of the items' table.
        out: Width of both towers' outputs.
    """

    def __init__(
        self,
        vocabulary: int = 30_522,
        length: int = 128,
        width: int = 384,
        *,
        layers: int = 6,
        heads: int = 12,
        items: int = 100_000,
        dim: int = 64,
        out: int = 128,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, self.rows = vocabulary, length, items
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, 4 * width) for _ in range(layers))
        self.query = nn.Linear(width, out)
        self.items = nn.Embedding(items, dim)
        self.item = MLP(dim, (256,), out)

    def forward(self, tokens: Tensor, item: Tensor) -> Tensor:
        """int64 [B, L] padded with zeros, int64 [B] -> scores [B]."""
        mask = tokens != 0
        x = self.norm(self.tokens(tokens) + self.positions)
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        kept = mask[:, :, None].to(x.dtype)
        mean = (x * kept).sum(1) / kept.sum(1).clamp(min=1)
        return (F.normalize(self.query(mean), dim=1) * F.normalize(self.item(self.items(item)), dim=1)).sum(1)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(tokens, item)`; queries have 4 tokens or more."""
        generator = seeded(seed, batch)
        words = 1 + sample_ids(self.vocabulary - 1, (batch, self.length), zipf=zipf, generator=generator)
        filled = torch.randint(min(4, self.length), self.length + 1, (batch, 1), generator=generator)
        tokens = torch.where(torch.arange(self.length) < filled, words, 0)
        return tokens, sample_ids(self.rows, (batch,), zipf=zipf, generator=generator)
