"""The plans that a competition keeps, and what the report says about all of them."""

from __future__ import annotations

from typing import Any

import pytest

from recfx.cost.estimate import Estimate
from recfx.driver.plan_entries import Entry, kept, times_of
from recfx.driver.plan_times import Choice
from recfx.placement.search import Candidate


class _Placed:
    """A lowered plan, of which only the identity counts here."""

    def __init__(self, name: str) -> None:
        self.name = name


def _entries(*names: str, failed: str = "") -> list[Entry]:
    found = []
    for index, name in enumerate(names):
        candidate = Candidate((index,), name, {rows: Estimate.exactly(rows * (index + 1.0)) for rows in (1, 64)})
        placed: Any = None if name == failed else _Placed(name)
        found.append(Entry(candidate, placed, "it failed" if name == failed else ""))
    return found


def _choice(bounds: tuple[int, ...], uses: tuple[int, ...]) -> Choice:
    return Choice(bounds, uses, {0: {64: 2.0, 1: 1.0}})


@pytest.mark.parametrize(
    ("bounds", "uses", "example", "names", "new_uses", "shown"),
    [
        ((), (0,), 4, ["a"], (0,), 0),
        ((), (2,), 4, ["c", "a"], (0,), 0),
        ((8,), (1, 0), 4, ["b", "a"], (0, 1), 0),
        ((8,), (1, 0), 8, ["b", "a"], (0, 1), 1),
        ((8, 32), (2, 1, 2), 9, ["c", "b", "a"], (0, 1, 0), 1),
        ((8, 32), (2, 1, 1), 100, ["b", "c", "a"], (1, 0, 0), 0),
        ((8, 32), (0, 1, 0), 31, ["b", "a"], (1, 0, 1), 0),
    ],
)
def test_used_plans_come_first_and_the_first_plan_last(
    bounds: Any, uses: Any, example: int, names: list[str], new_uses: Any, shown: int
) -> None:
    plans = kept(_entries("a", "b", "c"), _choice(bounds, uses), example)
    assert [placed.name for placed in plans.placed] == names  # type: ignore[attr-defined]
    assert (plans.bounds, plans.uses, plans.shown) == (bounds, new_uses, shown)


@pytest.mark.parametrize(
    ("bounds", "uses", "texts"),
    [
        ((), (0,), ["at all sizes", "", ""]),
        ((8,), (1, 0), ["from 8 rows", "below 8 rows", ""]),
        ((8, 32), (0, 2, 0), ["below 8 rows, from 32 rows", "", "from 8 rows and below 32 rows"]),
    ],
)
def test_the_report_says_where_each_plan_runs(bounds: Any, uses: Any, texts: list[str]) -> None:
    first, second, third = times_of(_entries("a", "b", "c", failed="b"), _choice(bounds, uses), (1, 64))
    assert [first.used, second.used, third.used] == texts
    assert [plan.name for plan in (first, second, third)] == ["a", "b", "c"]
    assert first.measured == ((1, 1.0), (64, 2.0))
    assert second.measured == third.measured == ()
    assert third.predicted == ((1, 3.0), (64, 192.0))
    assert (first.note, second.note) == ("", "it failed")
