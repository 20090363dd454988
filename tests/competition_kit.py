"""A model, a backend that counts its calls and can fail, and prices of its units, for tests of competing backends."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from placement_kit import TableCosts
from torch import Tensor, nn

import recfx
from recfx.cost.estimate import Estimate
from recfx.ir.numeric import Exactness
from recfx.ir.region import Region
from recfx.targets import EagerBackend, Lowered

BATCHES = (1, 2, 7, 64, 1500)


class Toy(EagerBackend):
    """A backend like torch that counts its calls and can be broken."""

    name: ClassVar[str] = "toy"
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def __init__(self) -> None:
        self.calls = 0
        self.lowered = 0
        self.error = 0.0
        self.fails_at: int | None = None
        self.missing: str | None = None
        self.refuses = False

    def unavailable(self) -> str | None:
        return self.missing

    def lower(self, region: Region) -> Lowered:
        if self.refuses:
            raise ZeroDivisionError("engine")
        lowered = super().lower(region)
        self.lowered += 1

        def run(*values: Any) -> tuple[Any, ...]:
            self.calls += 1
            if self.fails_at is not None and self.calls >= self.fails_at:
                raise RuntimeError("the engine lost its memory")
            return tuple(v + self.error if v.is_floating_point() else v for v in lowered.run(*values))

        return Lowered(self.name, region, run, lowered.left, lowered.operators)


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.tower = nn.Sequential(nn.Linear(6, 8), nn.Softmax(1), nn.Linear(8, 8))
        self.top = nn.Linear(16, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return self.top(torch.cat([self.tower(dense), self.table(ids)], 1)).squeeze(1)


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 6, generator=generator), torch.randint(0, 50, (batch,), generator=generator)


class Prices(TableCosts):
    """Seconds of one row of every unit, and of a call, by backend."""

    def __init__(self, row: dict[str, float], call: dict[str, float] | None = None) -> None:
        super().__init__({}, call=call)
        self.row = row

    def unit(self, backend: str, region: Region, rows: int, threads: int) -> Estimate:
        return Estimate.exactly(rows * self.row.get(backend, 1e-6))


#: The toy is predicted to be the fastest for every number of rows, or from some hundred rows on, or never.
ALWAYS = Prices({"toy": 1e-8})
LATER = Prices({"toy": 1e-8}, {"toy": 2e-4})
NEVER = Prices({"toy": 1e-4})


def optimized(**more: Any) -> tuple[Ranker, recfx.CompiledModel]:
    model = Ranker().eval()
    return model, recfx.optimize(model, example_inputs=inputs(4), **{"measure": False, **more})


def agrees(fast: recfx.CompiledModel, model: Ranker) -> None:
    for batch in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs(batch)), model(*inputs(batch)), rtol=1e-5, atol=1e-6)
