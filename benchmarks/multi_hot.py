"""A model with several ids per field, as in the DeepRecSys and MLPerf inference benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.lookup_model import multi_hot_ids, sum_bag


class MultiHotModel(nn.Module):
    """Sum-pooled bags and a bottom MLP, concatenated and optionally crossed, followed by a top MLP; returns logits [B].

    Args:
        dense: Dense features.
        tables: Rows of each table.
        hots: Ids per field.
        dim: Columns of every table.
        bottom: Widths of the bottom MLP; empty: no bottom MLP.
        top: Hidden widths of the top MLP.
        cross_layers: Low-rank cross layers (DCN-v2, Wang et al. 2021, equation 2) between the two.
        rank: The rank of the cross layers.
    """

    def __init__(
        self,
        *,
        dense: int,
        tables: Sequence[int],
        hots: Sequence[int],
        dim: int,
        bottom: Sequence[int],
        top: Sequence[int],
        cross_layers: int = 0,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.dense_features = dense
        self.rows = tuple(tables)
        self.hots = tuple(hots)
        self.bags = nn.ModuleList(sum_bag(rows, dim) for rows in tables)
        self.bottom = _mlp([dense, *bottom], last_activation=True)
        width = (bottom[-1] if bottom else dense) + dim * len(self.rows)
        self.cross = nn.ModuleList(LowRankCross(width, rank) for _ in range(cross_layers))
        self.top = _mlp([width, *top, 1], last_activation=False)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """float [B, dense], int64 [B, sum(hots)] with the fields side by side -> logits [B]."""
        fields = torch.split_with_sizes(ids, self.hots, dim=1)
        pooled = [bag(field) for bag, field in zip(self.bags, fields, strict=True)]
        first = x = torch.cat([self.bottom(dense), *pooled], dim=1)
        for layer in self.cross:
            x = layer(first, x)
        logits: Tensor = self.top(x).squeeze(1)
        return logits

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(dense, ids)`; the ids of a field are independent draws."""
        generator = torch.Generator().manual_seed(seed)
        dense = torch.randn(batch, self.dense_features, generator=generator)
        return dense, multi_hot_ids(self.rows, self.hots, batch, zipf, generator)


class LowRankCross(nn.Module):
    """x0 * (U V x + b) + x."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """[B, width], [B, width] -> [B, width]."""
        crossed: Tensor = first * self.up(self.down(x)) + x
        return crossed


def _mlp(widths: Sequence[int], *, last_activation: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*(layers if last_activation else layers[:-1]))
