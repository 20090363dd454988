"""Counted work of models that are small enough to count by hand, and limits on an invented machine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.limits import Work, count_work, limit_of
from benchmarks.multi_hot import MultiHotModel
from recfx.cost.machine import GatherPoint, Machine, StreamPoint


class Lookups(nn.Module):
    """Every kind of lookup, each in a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Embedding(10, 4)
        self.functional = nn.Parameter(torch.randn(20, 8))
        self.bag = nn.EmbeddingBag(30, 2, mode="sum")
        self.selected = nn.Parameter(torch.randn(40, 1))
        self.register_buffer("category_of", torch.arange(50))
        self.unused = nn.Linear(100, 100)

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids[:, 0]
        total: Tensor = (
            self.module(ids).sum((1, 2))
            + F.embedding(flat, self.functional).sum(1)
            + self.bag(ids).sum(1)
            + self.selected.index_select(0, flat).sum(1)
            + self.get_buffer("category_of")[flat]
        )
        return total


def test_lookups_are_counted_however_they_are_written() -> None:
    work = count_work(Lookups(), [torch.tensor([[1, 2, 1], [1, 3, 3]])])
    assert work.lookups == 6 + 2 + 6 + 2 + 2
    assert work.lookup_bytes == 6 * 16 + 2 * 32 + 6 * 8 + 2 * 4 + 2 * 8
    # rows 1, 2, 3 of `module` and `bag`; row 1 of `functional`, `selected` and `category_of`
    assert work.distinct == {16: 3, 32: 1, 8: 3 + 1, 4: 1}
    assert work.distinct_bytes == 3 * 16 + 32 + 4 * 8 + 4
    assert work.table_bytes == 10 * 16 + 20 * 32 + 30 * 8 + 40 * 4 + 50 * 8
    assert work.weight_bytes == 0
    assert work.flops == 0


def test_weights_count_once_and_only_when_read() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6, bias=False)
            self.second.weight = self.first.weight
            self.norm = nn.BatchNorm1d(6)
            self.unused = nn.Linear(1000, 1000)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(self.second(self.first(x)))
            return out

    work = count_work(Tied().eval(), [torch.randn(5, 6)])
    assert work.weight_bytes == 4 * (36 + 6 + 4 * 6)
    assert work.flops == 2 * (2 * 5 * 6 * 6)
    assert work.lookups == 0


def test_views_of_weights_are_read_in_parts() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight[:3].t() + x @ self.weight[:3].t() + (x @ self.weight[5:].t()).sum(1, keepdim=True)

    assert count_work(Parts(), [torch.randn(2, 4)]).weight_bytes == 4 * 4 * (3 + 5)


def test_tables_that_are_computed_count_as_tables() -> None:
    class Propagated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 4))

        def forward(self, ids: Tensor) -> Tensor:
            total = torch.zeros(len(ids), 4)
            for layer in range(3):
                total = total + F.embedding(ids, self.weight * layer)
            return total

    work = count_work(Propagated(), [torch.arange(5)])
    assert (work.lookups, work.table_bytes, work.weight_bytes) == (15, 3 * 160, 160)


def test_multi_hot_models_do_what_their_sizes_say() -> None:
    pytest.importorskip("recfx.zoo")
    model = MultiHotModel(
        dense=3, tables=(10, 20), hots=(1, 4), dim=8, bottom=(6, 8), top=(5,), cross_layers=2, rank=7
    ).eval()
    inputs = model.example_inputs(9, zipf=1.1, seed=1)
    assert [tuple(value.shape) for value in inputs] == [(9, 3), (9, 5)]
    assert all(torch.equal(a, b) for a, b in zip(inputs, model.example_inputs(9, zipf=1.1, seed=1), strict=True))
    assert model(*inputs).shape == (9,)
    work = count_work(model, inputs)
    assert work.lookups == 9 * 5
    mlps = 3 * 6 + 6 * 8 + 24 * 5 + 5
    assert work.flops == 2 * 9 * (mlps + 2 * 2 * 24 * 7)


def test_limits_follow_from_the_work() -> None:
    machine = Machine(
        "Some CPU",
        1,
        (),
        1,
        "2.13.0",
        matmul=1e9,
        stream=(StreamPoint(1000, 1e9), StreamPoint(1_000_000, 1e8)),
        gather=tuple(GatherPoint(t, r, 1e6 if t < 5000 else 1e5) for t in (1000, 10_000) for r in (64, 128)),
    )
    work = Work(
        flops=3000,
        needed_flops=3000,
        weight_bytes=1000,
        lookups=30,
        lookup_bytes=1920,
        distinct={64: 10, 128: 5},
        table_bytes=10_000,
    )
    once = limit_of(work, machine)
    assert once.weights == pytest.approx(1e-6)
    assert once.arithmetic == pytest.approx(3e-6)
    many = limit_of(work, machine, sets=1000)
    assert many.lookups == pytest.approx(15 / 1e5)
    assert once.lookups < many.lookups
    assert many.seconds == pytest.approx(1e-6 + 15 / 1e5)
    compute_bound = limit_of(Work(10**9, 10**9, 1000, 0, 0, {}, 0), machine)
    assert compute_bound.seconds == compute_bound.arithmetic == pytest.approx(1.0)
    assert Work.from_json(work.to_json()) == work
