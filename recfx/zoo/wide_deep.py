"""Wide & Deep: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.errors import require
from recfx.zoo.layers import MLP, FieldEmbeddings, FirstOrder

_CROSSED_FIELDS = 4


class CrossProducts(nn.Module):
    """One weight for each pair of values of two fields: the paper's cross-product transformation.

    The pair (a, b) has the id a * rows_b + b, modulo `buckets` if there are more pairs than buckets.

    Args:
        tables: Rows of each sparse field's table.
        crosses: The crossed pairs of fields.
        buckets: The largest number of rows of a crossed table.

    Raises:
        ZooError: A field does not exist, or `buckets` is below 1.
    """

    def __init__(self, tables: Sequence[int], crosses: Sequence[tuple[int, int]], buckets: int) -> None:
        super().__init__()
        require(buckets >= 1, f"needs at least one bucket, got {buckets}", where="WideDeep")
        for pair in crosses:
            require(
                all(0 <= field < len(tables) for field in pair),
                f"cannot cross fields {pair}",
                where="WideDeep",
                hint=f"fields are 0 to {len(tables) - 1}",
            )
        self.crosses = tuple(crosses)
        self.rows = tuple(tables)
        self.buckets = tuple(min(tables[a] * tables[b], buckets) for a, b in crosses)
        self.weights = FieldEmbeddings(self.buckets, 1)

    def forward(self, sparse: Tensor) -> Tensor:
        """int64 [B, F] -> logits [B]."""
        ids = [
            (sparse[:, a] * self.rows[b] + sparse[:, b]) % size
            for (a, b), size in zip(self.crosses, self.buckets, strict=True)
        ]
        logits: Tensor = self.weights(torch.stack(ids, dim=1)).sum((1, 2))
        return logits


class WideDeep(CtrModel):
    """A linear model over features and crossed features, plus an MLP over embeddings; returns logits [B].

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables; the paper's 32.
        deep: Hidden widths of the MLP; the paper's.
        crosses: Pairs of fields whose values are crossed in the wide part.
        buckets: The largest number of rows of a crossed table.
        dropout: Share of the hidden units dropped in training.
        batch_norm: Whether the MLP's layers are batch-normalised.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 32,
        *,
        deep: Sequence[int] = (1024, 512, 256),
        crosses: Sequence[tuple[int, int]] = ((0, 1),),
        buckets: int = 100_000,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(tables, dense, dim)
        self.first_order = FirstOrder(tables, dense)
        self.crossed = CrossProducts(tables, crosses, buckets) if crosses else None
        self.embeddings = FieldEmbeddings(tables, dim)
        self.deep = MLP(dense + len(tables) * dim, deep, 1, dropout=dropout, batch_norm=batch_norm)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables, one plain cross and one hashed cross; see `ZooModel.small`."""
        defaults = {"tables": SMALL_ROWS, "dense": 4, "dim": 4, "deep": (8, 4), "crosses": ((0, 1), (1, 4))}
        return cls(**{**defaults, "buckets": 200, **overrides})

    @classmethod
    def for_criteo(cls, cardinalities: Sequence[int], dense: int = 13, dim: int = 16, **overrides: Any) -> Self:
        """See `CtrModel.for_criteo`. Crosses all pairs of the four smallest fields that have more than one value."""
        several = [field for field, rows in enumerate(cardinalities) if rows > 1]
        smallest = sorted(several, key=lambda field: cardinalities[field])[:_CROSSED_FIELDS]
        crosses = tuple(combinations(sorted(smallest), 2))
        return super().for_criteo(cardinalities, dense, dim, **{"crosses": crosses, **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        wide: Tensor = self.first_order(dense, sparse)
        if self.crossed is not None:
            wide = wide + self.crossed(sparse)
        deep = self.deep(torch.cat([dense, self.embeddings(sparse).flatten(1)], dim=1)).squeeze(1)
        logits: Tensor = wide + deep
        return logits
