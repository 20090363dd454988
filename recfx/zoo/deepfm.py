"""DeepFM: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.layers import MLP, DenseEmbeddings, FieldEmbeddings, FirstOrder


class FactorizationMachine(nn.Module):
    """The sum of the dot products of all pairs of vectors, as half of (square of sum - sum of squares).

    Rendle 2010, "Factorization Machines", lemma 3.1.
    """

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, n, D] -> [B]."""
        square_of_sum = vectors.sum(1).square()
        sum_of_squares = vectors.square().sum(1)
        return 0.5 * (square_of_sum - sum_of_squares).sum(1)


class DeepFM(CtrModel):
    """First-order weights, FM and an MLP over the same vectors; returns logits [B].

    A dense feature is a field too, whose vector is its value times a learned one.

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables; the paper's 10.
        deep: Hidden widths of the MLP; the paper's 400 three times.
        dropout: Share of the hidden units dropped in training; the paper trains Criteo with 0.5.
        batch_norm: Whether the MLP's layers are batch-normalised.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 10,
        *,
        deep: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(tables, dense, dim)
        self.first_order = FirstOrder(tables, dense)
        self.sparse_embeddings = FieldEmbeddings(tables, dim)
        self.dense_embeddings = DenseEmbeddings(dense, dim)
        self.fm = FactorizationMachine()
        self.deep = MLP((dense + len(tables)) * dim, deep, 1, dropout=dropout, batch_norm=batch_norm)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables and batch norm; see `ZooModel.small`."""
        defaults = {"tables": SMALL_ROWS, "dense": 4, "dim": 4, "deep": (8, 4), "batch_norm": True}
        return cls(**{**defaults, **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        vectors = torch.cat([self.dense_embeddings(dense), self.sparse_embeddings(sparse)], dim=1)
        deep = self.deep(vectors.flatten(1)).squeeze(1)
        logits: Tensor = self.first_order(dense, sparse) + self.fm(vectors) + deep
        return logits
