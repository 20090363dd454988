"""The first-order change of the answers for a change of a table, against the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from budget_kit import Clicks, inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recfx.budget.sensitivity import TableResponses
from recfx.capture import capture
from recfx.pipeline import Pipeline


class Bags(nn.Module):
    """A bag of ids beside a plain lookup: ids [B, 4] -> answers [B, 2], linear in the tables."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(20, 8, mode=mode)
        self.table = nn.Embedding(20, 8, padding_idx=3)
        self.last = nn.Linear(16, 2)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(torch.cat([self.bag(ids), self.table(ids[:, 0])], 1))


def ids(rows: int, seed: int) -> Tensor:
    return torch.randint(0, 20, (rows, 4), generator=torch.Generator().manual_seed(seed))


def responses(model: nn.Module, given: list[Any]) -> TableResponses:
    program = Pipeline("canonicalize").run(capture(model, given[0])).program
    return TableResponses(program, [list(one) for one in given])


def moved(model: nn.Module, name: str, change: Tensor, given: list[Any]) -> Tensor:
    """The change of the answers when a table moves, divided by their standard deviation, [answers, rows]."""
    weight = model.get_parameter(name)
    with torch.no_grad():
        before = torch.cat([model(*one).double().reshape(len(one[0]), -1) for one in given])
        weight += change
        after = torch.cat([model(*one).double().reshape(len(one[0]), -1) for one in given])
        weight -= change
    return ((after - before) / before.std(0, correction=0)).T


@given(st.integers(0, 2**31 - 1), st.sampled_from(["tables.0.weight", "tables.3.weight"]), st.integers(1, 40))
@settings(deadline=None, max_examples=10)
def test_a_small_change_moves_the_answers_as_predicted(seed: int, name: str, rows: int) -> None:
    model, given = Clicks(seed % 7), [inputs(rows + 20, seed % 1000), inputs(rows, seed % 999)]
    change = 1e-3 * torch.randn(50, 16, generator=torch.Generator().manual_seed(seed))
    found = responses(model, given)
    assert found.names == {f"tables.{f}.weight" for f in range(4)}
    exact = moved(model, name, change, given)
    predicted = found.response(name, change)
    assert predicted.shape == exact.shape
    assert float((predicted - exact).square().mean()) < 0.02 * float(exact.square().mean()) + 1e-9


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("name", ["bag.weight", "table.weight"])
def test_bags_and_several_answers_are_exact_where_the_model_is_linear(mode: str, name: str) -> None:
    model, given = Bags(mode), [(ids(30, 0),), (ids(7, 1),)]
    change = torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    found = responses(model, given).response(name, change)
    torch.testing.assert_close(found, moved(model, name, change, given), rtol=1e-3, atol=1e-4)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return (self.table(ids[:, 0]) @ self.table.weight.T)[:, :2]


class Returned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(20, 2), nn.Embedding(20, 2)
        self.eval()

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(ids[:, 0]), self.other(ids[:, 1]) * 2.0


class OfAnotherLength(nn.Module):
    """A table of which all rows are read, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(20, 8), nn.Embedding(20, 8)
        self.register_buffer("all", torch.arange(20))
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return (self.other(ids[:, 0]) @ self.table(self.all).T).sum(1)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids[:, 0]) * 2.0


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Tied(), set()),  # a product reads the table as well
        (Returned(), {"other.weight"}),  # the result of the lookup is an answer itself
        (OfAnotherLength(), {"other.weight"}),
        (Wide(), {"table.weight"}),  # eight answers, by random probes
        (Bags("max"), {"table.weight"}),  # not linear in the table
    ],
)
def test_tables_without_a_closed_form(model: nn.Module, names: set[str]) -> None:
    assert responses(model, [(ids(30, 0),)]).names == names


class Tower(nn.Module):
    """Many answers for each row, and an output of another size: ids [B, 4] -> [B, 24] and [B], linear in the table."""

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.last = nn.Embedding(20, 8), nn.Linear(16, wide), nn.Linear(16, 1)
        self.eval()

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.cat([self.table(ids[:, 0]), self.table(ids[:, 1])], 1)
        return self.first(rows), 100 * self.last(rows).squeeze(1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_answers_have_the_harm_of_the_model_to_a_few_percent(seed: int) -> None:
    model, given_rows = Tower(), [(ids(500, seed),), (ids(300, seed + 9),)]
    change = 0.1 * torch.randn(20, 8, generator=torch.Generator().manual_seed(seed))
    found = responses(model, given_rows)
    assert found.names == {"table.weight"}
    with torch.no_grad():
        before = [torch.cat(held) for held in zip(*(model(*one) for one in given_rows), strict=True)]
        model.table.weight += change
        after = [torch.cat(held) for held in zip(*(model(*one) for one in given_rows), strict=True)]
        exact = sum(float((b - a).square().mean() / a.var(correction=0)) for a, b in zip(before, after, strict=True))
    assert float(found.response("table.weight", change).square().mean(1).sum()) == pytest.approx(exact, rel=0.15)


def test_outputs_of_other_rows_have_no_closed_form() -> None:
    class Pairs(Tower):
        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            one, other = super().forward(ids)
            return one, other.sum(0, keepdim=True)

    assert not responses(Pairs(), [(ids(6, 0),)]).names
