"""DLRM: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.layers import MLP, FieldEmbeddings


class DotInteraction(nn.Module):
    """Dot products of all pairs of vectors: the lower triangle, row by row, with or without the diagonal.

    Args:
        vectors: Number of vectors, n.
        diagonal: Whether each vector is also multiplied with itself.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, vectors: int, *, diagonal: bool = False) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(vectors, vectors, 0 if diagonal else -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.out_features = len(rows)

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, n, D] -> [B, n (n - 1) / 2], or [B, n (n + 1) / 2] with the diagonal."""
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return products[:, self.rows, self.columns]


class DLRM(CtrModel):
    """Bottom MLP over the dense features, one table per field, dot interaction, top MLP; returns logits [B].

    The defaults are the public Criteo Kaggle configuration, with the tables of `CRITEO_ROWS`.

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables, and the width of the bottom MLP's output.
        bottom: Hidden widths of the bottom MLP.
        top: Hidden widths of the top MLP.
        diagonal: Whether the interaction includes each vector's product with itself.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 16,
        *,
        bottom: Sequence[int] = (512, 256, 64),
        top: Sequence[int] = (512, 256),
        diagonal: bool = False,
    ) -> None:
        super().__init__(tables, dense, dim)
        self.embeddings = FieldEmbeddings(tables, dim)
        self.bottom = MLP(dense, [*bottom, dim])
        self.interaction = DotInteraction(1 + len(tables), diagonal=diagonal)
        self.top = MLP(dim + self.interaction.out_features, top, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Initialises as the authors' code does: tables uniform up to 1 / sqrt(rows), linear layers normal."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                bound = 1 / math.sqrt(module.num_embeddings)
                nn.init.uniform_(module.weight, -bound, bound)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_features + module.out_features)))
                nn.init.normal_(module.bias, std=math.sqrt(1 / module.out_features))

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables, narrow MLPs; see `ZooModel.small`."""
        return cls(**{"tables": SMALL_ROWS, "dense": 4, "dim": 4, "bottom": (8,), "top": (8, 4), **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        x = self.bottom(dense)
        vectors = torch.cat([x[:, None], self.embeddings(sparse)], dim=1)
        logits: Tensor = self.top(torch.cat([x, self.interaction(vectors)], dim=1)).squeeze(1)
        return logits
