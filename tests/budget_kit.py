"""Models for the tests of budgets, with labels drawn from the models' own scores, so that the uncompressed model ranks best."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FIELDS = 4
IDS = 50


class Clicks(nn.Module):
    """Tables and an MLP whose layers are large enough to be quantised: ids [B, FIELDS], dense [B, 8] -> logits [B]."""

    def __init__(self, seed: int = 0, hidden: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tables = nn.ModuleList(nn.Embedding(IDS, 16) for _ in range(FIELDS))
        self.first = nn.Linear(8 + 16 * FIELDS, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)
        self.eval()

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        gate = 0.75 + 0.5 * torch.sigmoid(dense[:, :1])  # so that no layer folds into the tables
        rows = [table(ids[:, f]) * gate for f, table in enumerate(self.tables)]
        hidden = torch.relu(self.first(torch.cat([dense, *rows], 1)))
        return self.last(torch.relu(self.second(hidden))).squeeze(1)


class OneTableDecides(Clicks):
    """The first table holds small differences beside a large number in each row, which few bits cannot tell apart."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        with torch.no_grad():
            self.tables[0].weight[:, 0] = 10_000.0
            self.first.weight[:, 8] = 1e-7
            self.first.weight[:, 9:24] *= 3.0


class OutlierActivations(Clicks):
    """One channel of the second layer's input is thousands of times as large as the others, and does not matter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        with torch.no_grad():
            self.first.bias[0] = 50_000.0
            self.second.weight[:, 0] = 1e-7


class RareChannel(Clicks):
    """A channel of the first layer that only rows with the first id of the first field use, and that changes their answer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        with torch.no_grad():
            self.tables[0].weight[:, 0] = 0.0
            self.tables[0].weight[0, 0] = 1.0
            self.first.weight[:, 8] = 0.0
            self.first.weight[5] = 0.0
            self.first.weight[5, 8] = 1.0
            self.first.bias[5] = 0.0
            self.second.weight[:, 5] = 0.0
            self.second.weight[7] = 0.0
            self.second.weight[7, 5] = 1.0
            self.second.bias[7] = 0.0
            self.last.weight[0, 7] = 8.0


def inputs(rows: int, seed: int = 0, *, rare: float = 1 / IDS) -> tuple[Tensor, Tensor]:
    """Inputs of `Clicks`.

    Args:
        rows: Number of rows.
        seed: Seed.
        rare: The share of rows with the first id of the first field.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, IDS, (rows, FIELDS), generator=generator)
    ids[torch.rand(rows, generator=generator) < rare, 0] = 0
    return ids, torch.randn(rows, 8, generator=generator)


def batches(
    model: nn.Module, rows: int = 4096, seed: int = 1, *, sharp: float = 6.0, rare: float = 1 / IDS
) -> list[Any]:
    """Batches (ids, dense, label), whose labels are drawn from the model's standardised logits."""
    given = inputs(rows, seed, rare=rare)
    with torch.no_grad():
        logits = model(*given)
    usual = logits[given[0][:, 0] != 0]
    chance = torch.sigmoid(sharp * (logits - usual.mean()) / usual.std())
    label = torch.bernoulli(chance, generator=torch.Generator().manual_seed(seed))
    return list(zip(*(tensor.split(1000) for tensor in (*given, label)), strict=True))
