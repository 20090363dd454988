"""A change of items and of the tables of two models becomes visible in one step, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recommender_kit import compiled, indexed, items, users

import recfx
from recfx.errors import InputError
from recfx.serve import Change
from recfx.serve.recommender.catalogue import Catalogue
from recfx.serve.recommender.item_inputs import ItemInputs
from recfx.serve.recommender.publish import publish
from recfx.serve.recommender.sides import Sides

ROWS = torch.arange(3), torch.full((3, 8), 0.5)
FULL = {"query.users.weight": ROWS, "ranking.items.weight": ROWS}


class Held:
    """Items and two models, and what requests would see of them."""

    def __init__(self) -> None:
        some = items(range(100, 104))
        inputs = ItemInputs({name: value.clone() for name, value in some.inputs.items()})
        self.sides = Sides(Catalogue(indexed(some), inputs), owned=True)
        query, ranking = (recfx.CompiledModel(model.parts) for model in compiled())
        self.models = [("query", query), ("ranking", ranking)]
        self._users = {**users(3), "user": torch.arange(3)}
        self._items = items(range(100, 103)).inputs

    def seen(self) -> tuple[int, torch.Tensor, torch.Tensor]:
        query, ranking = (model for _, model in self.models)
        given = list(self._users.values())
        return len(self.sides.active), query(*given), ranking(*given, *self._items.values())

    def publish(self, tables: dict[str, Any], commit: Any = lambda: None, add: int = 110) -> list[str]:
        """Publishes a new item with rows of tables; what was visible when `visible` was called."""
        change = self.sides.active.checked(Change(add=items([add]), tables=tables))
        said: list[str] = []
        publish(change, self.sides, self.models, commit, lambda: said.append("visible"))
        return said


def equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> list[bool]:
    return [one[0] == other[0], *(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))]


@pytest.mark.parametrize(
    ("tables", "changed"),
    [
        ({}, [True, False, False]),
        ({"query.users.weight": ROWS}, [True, True, False]),
        ({"ranking.items.weight": ROWS}, [True, False, True]),
        (FULL, [True, True, True]),
    ],
)
def test_everything_becomes_visible(tables: dict[str, Any], changed: list[bool]) -> None:
    held = Held()
    before = held.seen()
    during: list[list[bool]] = []
    assert held.publish(tables, commit=lambda: during.append(equal(held.seen(), before))) == ["visible"]
    assert during == [[True, True, True]]  # all is written by then, and nothing is seen
    assert equal(held.seen(), before) == [not each for each in changed]


def test_an_error_before_the_exchange_leaves_everything() -> None:
    held = Held()
    before = held.seen()

    def fail() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        held.publish(FULL, commit=fail)
    assert equal(held.seen(), before) == [True] * 3
    assert [model.table_version for _, model in held.models] == [0, 0]
    held.publish(FULL)
    assert equal(held.seen(), before) == [False] * 3


def test_rows_that_the_second_model_refuses_leave_the_first() -> None:
    held = Held()
    before = held.seen()
    wrong = {**FULL, "ranking.items.weight": (torch.tensor([10**6]), torch.zeros(1, 8))}
    with pytest.raises(InputError, match="is outside the table"):
        held.publish(wrong)
    assert equal(held.seen(), before) == [True] * 3
    for number in range(3):
        held.publish(FULL, add=111 + number)
    assert held.seen()[0] == before[0] + 3
    assert [model.table_version for _, model in held.models] == [3, 3]
