"""Models over items for the tests of constant inputs and of refresh. Imported as `item_models`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import recfx

USERS, ITEMS = 12, 20


class Scores(nn.Module):
    """Scores users against a list of items."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4)
        self.tower = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.eval()

    def forward(self, item_ids: Tensor, user: Tensor, *, bias: float = 0.5) -> Tensor:
        return self.users(user) @ self.tower(self.items(item_ids)).T + bias


class Rank(nn.Module):
    """A user, an item, and the properties of the item: its price and category."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items, self.kinds = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4), nn.Embedding(3, 2)
        self.tower = nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4))
        self.eval()

    def forward(self, user: Tensor, item: Tensor, price: Tensor, kind: Tensor) -> Tensor:
        vector = self.tower(torch.cat([self.items(item), self.kinds(kind), price[:, None]], 1))
        return (self.users(user) * torch.nn.functional.normalize(vector, dim=1)).sum(1)


IDS = torch.tensor([3, 1, 4, 15, 9])
USER = torch.tensor([0, 5, 5, 11])


def catalogue(ids: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = {"price": torch.rand(ITEMS, generator=generator), "kind": torch.randint(0, 3, (ITEMS,), generator=generator)}
    return {"item": ids, **{name: rows[name][ids] for name in rows}}


def rank_inputs(batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(0, ITEMS, (batch,), generator=generator)
    whole = catalogue(torch.arange(ITEMS))
    return torch.randint(0, USERS, (batch,), generator=generator), items, whole["price"][items], whole["kind"][items]


def optimize(model: nn.Module, **given: Any) -> recfx.CompiledModel:
    return recfx.optimize(model, **{"measure": False, "verify": "numeric", **given})


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def linears(fast: recfx.CompiledModel) -> int:
    return sum("linear" in str(n.target) for n in fast.program.graph.nodes if n.op == "call_function")
