"""The methods that every model of the zoo has in addition to `forward`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.errors import require
from recfx.zoo.sampling import sample_ids, seeded

#: Rows of the 26 sparse fields of the Criteo display advertising challenge, as DLRM's preprocessing counts them.
# fmt: off
CRITEO_KAGGLE_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on

#: The same with the largest tables cut to 100,000 rows: the default, so that no model needs gigabytes.
CRITEO_ROWS = tuple(min(rows, 100_000) for rows in CRITEO_KAGGLE_ROWS)

#: Tables of the tiny configurations; one has a single row.
SMALL_ROWS = (50, 7, 100, 1, 23)


class ZooModel(nn.Module, ABC):
    """A reference model: plain torch, no value-dependent control flow, any batch size from 1."""

    @classmethod
    @abstractmethod
    def small(cls, **overrides: Any) -> Self:
        """A tiny configuration for tests; `overrides` are arguments of the constructor."""

    @abstractmethod
    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs for `forward`, the same for the same arguments.

        Args:
            batch: Rows.
            zipf: Exponent of the bounded Zipf distribution of the ids; None draws them uniformly.
            seed: Seed of the draw.

        Raises:
            ZooError: The batch is negative, or the exponent is negative or not finite.
        """


class CtrModel(ZooModel):
    """A click model over dense features and sparse fields of one id each: `forward(dense, sparse)`.

    Inputs: `dense` float [B, dense]; `sparse` int64 [B, F], column f in [0, tables[f]).

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables.

    Raises:
        ZooError: There is no table, no dense feature or no column, or a table has no rows.
    """

    def __init__(self, tables: Sequence[int] = CRITEO_ROWS, dense: int = 13, dim: int = 16) -> None:
        super().__init__()
        where = type(self).__name__
        require(len(tables) >= 1 and min(tables) >= 1, f"every table needs a row, got {list(tables)}", where=where)
        require(dense >= 1, f"needs at least one dense feature, got {dense}", where=where)
        require(dim >= 1, f"tables need at least one column, got {dim}", where=where)
        self.rows = tuple(tables)
        self.dense_features = dense

    @classmethod
    def for_criteo(cls, cardinalities: Sequence[int], dense: int = 13, dim: int = 16, **overrides: Any) -> Self:
        """The model for Criteo-like data.

        Args:
            cardinalities: Number of ids of each sparse field.
            dense: Number of dense features; feed them as log1p of the counts, or otherwise of moderate size.
            dim: Columns of the tables.
            overrides: Further arguments of the constructor.
        """
        return cls(tables=tuple(cardinalities), dense=dense, dim=dim, **overrides)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(dense, sparse)`; the dense features are log1p of exponentially distributed counts.

        See `ZooModel.example_inputs`.
        """
        generator = seeded(seed, batch)
        counts = torch.empty(batch, self.dense_features).exponential_(0.1, generator=generator)
        ids = [sample_ids(rows, (batch,), zipf=zipf, generator=generator) for rows in self.rows]
        return torch.log1p(counts), torch.stack(ids, dim=1)
