"""xDeepFM: Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.layers import MLP, DenseEmbeddings, FieldEmbeddings, FirstOrder


class CompressedInteraction(nn.Module):
    """The compressed interaction network (CIN), equations 6 and 7, without activation as the paper found best.

    Layer k has H_k feature maps x^k_h = sum_ij W^k_hij (x^(k-1)_i * x^0_j); each is summed over its columns.

    Args:
        fields: Number of vectors, m.
        maps: Feature maps of each layer, H_1 to H_T.
    """

    def __init__(self, fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        inputs = [fields, *maps[:-1]]
        self.weights = nn.ParameterList(
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(out, width * fields)))
            for width, out in zip(inputs, maps, strict=True)
        )
        self.out_features = sum(maps)

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, m, D] -> [B, H_1 + ... + H_T]."""
        layer, pooled = vectors, []
        for weight in self.weights:
            outer = layer[:, :, None] * vectors[:, None]  # [B, H, m, D]
            layer = weight @ outer.flatten(1, 2)
            pooled.append(layer.sum(2))
        return torch.cat(pooled, dim=1)


class XDeepFM(CtrModel):
    """First-order weights, CIN and an MLP over the same vectors; returns logits [B].

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features, each a field whose vector is its value times a learned one.
        dim: Columns of the tables; the paper's 10.
        maps: Feature maps of each CIN layer; the paper's 200 three times for Criteo.
        deep: Hidden widths of the MLP; the paper's 400 twice.
        dropout: Share of the hidden units dropped in training.
        batch_norm: Whether the MLP's layers are batch-normalised.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 10,
        *,
        maps: Sequence[int] = (200, 200, 200),
        deep: Sequence[int] = (400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(tables, dense, dim)
        fields = dense + len(tables)
        self.first_order = FirstOrder(tables, dense)
        self.sparse_embeddings = FieldEmbeddings(tables, dim)
        self.dense_embeddings = DenseEmbeddings(dense, dim)
        self.cin = CompressedInteraction(fields, maps)
        self.cin_output = nn.Linear(self.cin.out_features, 1, bias=False)
        self.deep = MLP(fields * dim, deep, 1, dropout=dropout, batch_norm=batch_norm)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables, CIN layers of different widths; see `ZooModel.small`."""
        defaults = {"tables": SMALL_ROWS, "dense": 4, "dim": 4, "maps": (6, 5, 3), "deep": (8, 4)}
        return cls(**{**defaults, **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        vectors = torch.cat([self.dense_embeddings(dense), self.sparse_embeddings(sparse)], dim=1)
        explicit = self.cin_output(self.cin(vectors)).squeeze(1)
        implicit = self.deep(vectors.flatten(1)).squeeze(1)
        logits: Tensor = self.first_order(dense, sparse) + explicit + implicit
        return logits
