"""MaskNet: Wang et al. 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided
Mask"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, CtrModel
from recfx.zoo.layers import MLP, FieldEmbeddings


class MaskBlock(nn.Module):
    """Layer norm of a masked input through a linear layer; an MLP of the embeddings gives the mask (equations 4 to 9).

    Args:
        embedded: Width of the embeddings.
        inputs: Width of the input.
        outputs: Width of the output.
        wider: Width of the mask's hidden layer, as a factor of the input's.
    """

    def __init__(self, embedded: int, inputs: int, outputs: int, wider: float) -> None:
        super().__init__()
        self.mask = MLP(embedded, (int(wider * inputs),), inputs)
        self.hidden = nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU())

    def forward(self, embedded: Tensor, x: Tensor) -> Tensor:
        """[B, embedded], [B, inputs] -> [B, outputs]."""
        out: Tensor = self.hidden(self.mask(embedded) * x)
        return out


class MaskNet(CtrModel):
    """Parallel mask blocks over the embeddings, then an MLP; returns logits [B].

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables.
        blocks: Number of blocks.
        width: Outputs of a block.
        hidden: Hidden widths of the MLP.
        wider: See `MaskBlock`.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 16,
        *,
        blocks: int = 3,
        width: int = 64,
        hidden: Sequence[int] = (256, 128),
        wider: float = 1.0,
    ) -> None:
        super().__init__(tables, dense, dim)
        fields = len(tables)
        self.embeddings = FieldEmbeddings(tables, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(fields))
        inputs = fields * dim
        self.blocks = nn.ModuleList(MaskBlock(inputs + dense, inputs, width, wider) for _ in range(blocks))
        self.mlp = MLP(blocks * width, hidden, 1)

    @classmethod
    def small(cls, **overrides: Any) -> MaskNet:
        """Three tables, two blocks."""
        sizes = {"tables": (50, 7, 23), "dense": 4, "dim": 4, "blocks": 2, "width": 6, "hidden": (8,)}
        return cls(**{**sizes, **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        rows = self.embeddings(sparse)
        normed = torch.cat([norm(rows[:, field]) for field, norm in enumerate(self.norms)], 1)
        embedded = torch.cat([dense, rows.flatten(1)], 1)
        logits: Tensor = self.mlp(torch.cat([block(embedded, normed) for block in self.blocks], 1)).squeeze(1)
        return logits
