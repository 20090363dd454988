"""Small models that several tests use. Imported as `models`; see `pythonpath` in pyproject.toml."""

from __future__ import annotations

import torch
from torch import nn


class TinyCtr(nn.Module):
    """Two tables, one of them used twice, a bag, and a small tower with batch norm; dense [B, 5], sparse [B, 3]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.user = nn.Embedding(20, 4)
        self.item = nn.Embedding(30, 4)
        self.bag = nn.EmbeddingBag(30, 4, mode="sum")
        self.bag.weight = self.item.weight
        self.bottom = nn.Linear(5, 4)
        self.norm = nn.BatchNorm1d(16)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.top = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.eval()

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        parts = [self.bottom(dense), self.user(sparse[:, 0]), self.item(sparse[:, 1]), self.bag(sparse[:, 1:])]
        return self.top(self.norm(torch.cat(parts, dim=1))).squeeze(1)


def tiny_inputs(batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of `TinyCtr`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 5, generator=generator), torch.randint(0, 20, (batch, 3), generator=generator)
