"""AutoInt: Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.errors import require
from recfx.zoo.layers import MLP, DenseEmbeddings, FieldEmbeddings, split_heads


class InteractingLayer(nn.Module):
    """Multi-head self-attention over fields, not scaled, with a projected residual and ReLU (equations 5 to 8).

    Args:
        inputs: Width of the input vectors.
        outputs: Width of the output vectors, all heads together.
        heads: Number of heads; divides `outputs`.

    Raises:
        ZooError: The heads do not divide the width.
    """

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        require(
            heads >= 1 and outputs % heads == 0, f"{heads} heads do not divide a width of {outputs}", where="AutoInt"
        )
        self.heads = heads
        self.query = nn.Linear(inputs, outputs, bias=False)
        self.key = nn.Linear(inputs, outputs, bias=False)
        self.value = nn.Linear(inputs, outputs, bias=False)
        self.residual = nn.Linear(inputs, outputs, bias=False)

    def forward(self, fields: Tensor) -> Tensor:
        """[B, M, inputs] -> [B, M, outputs]."""
        query, key, value = (split_heads(project(fields), self.heads) for project in (self.query, self.key, self.value))
        attention = torch.softmax(query @ key.transpose(-2, -1), dim=-1)
        mixed = (attention @ value).transpose(1, 2).flatten(2)
        return torch.relu(mixed + self.residual(fields))


class AutoInt(CtrModel):
    """Interacting layers over the vectors of all features, then a linear layer; returns logits [B].

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features, each a field whose vector is its value times a learned one.
        dim: Columns of the tables; the paper's 16.
        layers: Number of interacting layers; the paper's 3.
        heads: Heads of each; the paper's 2.
        head_dim: Width of a head; the paper's 32.
        deep: Hidden widths of an MLP parallel to the attention (the paper's AutoInt+); empty for no MLP.
        dropout: Share of that MLP's hidden units dropped in training.

    Raises:
        ZooError: `layers` is below 1.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 16,
        *,
        layers: int = 3,
        heads: int = 2,
        head_dim: int = 32,
        deep: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(tables, dense, dim)
        require(layers >= 1, f"needs at least one interacting layer, got {layers}", where="AutoInt")
        fields, width = dense + len(tables), heads * head_dim
        self.sparse_embeddings = FieldEmbeddings(tables, dim)
        self.dense_embeddings = DenseEmbeddings(dense, dim)
        self.attention = nn.Sequential(
            *(InteractingLayer(dim if layer == 0 else width, width, heads) for layer in range(layers))
        )
        self.output = nn.Linear(fields * width, 1)
        self.deep = MLP(fields * dim, deep, 1, dropout=dropout) if deep else None

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables, two layers of two heads; see `ZooModel.small`."""
        return cls(**{"tables": SMALL_ROWS, "dense": 4, "dim": 4, "layers": 2, "head_dim": 3, **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        fields = torch.cat([self.dense_embeddings(dense), self.sparse_embeddings(sparse)], dim=1)
        logits: Tensor = self.output(self.attention(fields).flatten(1)).squeeze(1)
        if self.deep is not None:
            logits = logits + self.deep(fields.flatten(1)).squeeze(1)
        return logits
