"""Models and updates for the tests of live rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import recfx

ROWS, COLUMNS = 40, 16
#: The tables of `Tables`.
NAMES = ("users.weight", "items.weight", "tags.weight")
Updates = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class Tables(nn.Module):
    """Two tables, bags, and a dense layer behind all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(ROWS, COLUMNS)
        self.items = nn.Embedding(ROWS, COLUMNS)
        self.tags = nn.EmbeddingBag(ROWS, COLUMNS, mode="sum")
        self.head = nn.Sequential(nn.Linear(3 * COLUMNS, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.cat([self.users(user), self.items(item), self.tags(tags)], 1))
        return found


def inputs(batch: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    draw = [torch.randint(0, ROWS, size, generator=generator) for size in ((batch,), (batch,), (batch, 3))]
    return tuple(draw)


def optimize(model: nn.Module, example: Any = None, **options: Any) -> recfx.CompiledModel:
    options = {"target": "native", "measure": False, **options}
    return recfx.optimize(model, example_inputs=inputs() if example is None else example, **options)


def with_rows(model: nn.Module, updates: Updates) -> nn.Module:
    """A copy of a model with new rows."""
    made = copy.deepcopy(model)
    state = dict(made.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, (ids, rows) in updates.items():
            for position, id_ in enumerate(ids.tolist()):  # the last row of an id counts
                state[name][id_] = rows[position]
    return made


def drawn(names: tuple[str, ...], count: int, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> Updates:
    """New rows for some tables."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randint(0, rows, (count,), generator=generator),
            torch.randn(count, columns, generator=generator),
        )
        for name in names
    }
