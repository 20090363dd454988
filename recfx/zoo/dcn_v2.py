"""DCN-v2: Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.errors import require
from recfx.zoo.layers import MLP, FieldEmbeddings

Structure = Literal["stacked", "parallel"]


class CrossLayer(nn.Module):
    """x' = x0 * (W x + b) + x (equation 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """[B, width] twice -> [B, width]."""
        out: Tensor = x0 * self.linear(x) + x
        return out


class LowRankCrossLayer(nn.Module):
    """x' = x0 * (U (V^T x) + b) + x, with U and V of `rank` columns (equation 2)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """[B, width] twice -> [B, width]."""
        out: Tensor = x0 * self.up(self.down(x)) + x
        return out


class DCNv2(CtrModel):
    """Cross layers over embeddings and dense features, with an MLP after or parallel to them; returns logits [B].

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables.
        cross_layers: Number of cross layers.
        rank: Rank of their matrices; None for full matrices.
        deep: Hidden widths of the MLP.
        structure: "stacked" feeds the crossed features to the MLP, "parallel" joins the outputs of the two.
        dropout: Share of the hidden units dropped in training.
        batch_norm: Whether the MLP's layers are batch-normalised.

    Raises:
        ZooError: The structure is unknown, or the number of layers or the rank is below 1.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 16,
        *,
        cross_layers: int = 3,
        rank: int | None = None,
        deep: Sequence[int] = (768, 768),
        structure: Structure = "stacked",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(tables, dense, dim)
        require(
            structure in ("stacked", "parallel"),
            f"unknown structure {structure!r}",
            where="DCNv2",
            hint='"stacked" or "parallel"',
        )
        require(cross_layers >= 1, f"needs at least one cross layer, got {cross_layers}", where="DCNv2")
        require(rank is None or rank >= 1, f"the rank must be at least 1, got {rank}", where="DCNv2")
        self.structure = structure
        width = dense + len(tables) * dim
        self.embeddings = FieldEmbeddings(tables, dim)
        self.cross = nn.ModuleList(
            CrossLayer(width) if rank is None else LowRankCrossLayer(width, rank) for _ in range(cross_layers)
        )
        self.deep = MLP(width, deep, dropout=dropout, batch_norm=batch_norm)
        self.output = nn.Linear(self.deep.out_features + (width if structure == "parallel" else 0), 1)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables, two full cross layers; see `ZooModel.small`."""
        return cls(**{"tables": SMALL_ROWS, "dense": 4, "dim": 4, "cross_layers": 2, "deep": (8, 4), **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        x0 = torch.cat([dense, self.embeddings(sparse).flatten(1)], dim=1)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        features = self.deep(x) if self.structure == "stacked" else torch.cat([x, self.deep(x0)], dim=1)
        logits: Tensor = self.output(features).squeeze(1)
        return logits
