"""Options of units, and the best choice for a total harm."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.steps import FORMS, Group, Step
from recfx.budget.units import Option, Unit, best_choice, least_harm, reverted_by, setting_of_options

GROUPS = [Group(name, "table", FORMS["table"]) for name in "abcd"]


def worth(bytes_saved: float, time_saved: float) -> float:
    return bytes_saved + time_saved


def unit(group: Group, *figures: tuple[float, float]) -> Unit:
    own = zip(group.forms, figures, strict=False)
    return (Option(), *(Option(((group, form),), harm, saved) for form, (harm, saved) in own))


UNITS = [unit(GROUPS[0], (1.0, 0.2), (4.0, 0.3)), unit(GROUPS[1], (0.0, 0.1)), unit(GROUPS[2], (math.inf, 0.9))]


@pytest.mark.parametrize(
    ("harm", "forms"),
    [
        (0.0, {"b": "8 bits"}),
        (1.0, {"a": "8 bits", "b": "8 bits"}),
        (4.0, {"a": "4 bits", "b": "8 bits"}),
        (math.inf, {"a": "4 bits", "b": "8 bits"}),  # an infinite harm is never taken
    ],
)
def test_the_most_worth_within_a_harm(harm: float, forms: dict[str, str]) -> None:
    found = setting_of_options(best_choice(UNITS, harm, worth))
    assert {group.name: form for group, form in found.items()} == forms


@given(st.lists(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4), min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_the_least_harm_of_as_many_bytes(figures: list[list[tuple[float, float]]], data: st.DataObject) -> None:
    units = [unit(group, *own) for group, own in zip(GROUPS, figures, strict=False)]
    most = sum(max(option.bytes for option in own) for own in units)
    wanted = data.draw(st.floats(0, most))
    found = least_harm(units, wanted)
    assert sum(option.bytes for option in found) >= wanted - 1e-9
    everything = [max(own, key=lambda option: option.bytes) for own in units]
    assert sum(o.harm for o in found) <= sum(o.harm for o in everything) + 1e-9


def test_steps_that_a_setting_takes_back() -> None:
    steps = [Step(group, form, 0.1, 0.1) for group in GROUPS[:2] for form in group.forms]
    assert reverted_by(steps, {GROUPS[0]: "4 bits"}) == {2, 3, 4, 5, 6, 7}
    assert reverted_by(steps, {}) == frozenset(range(8))
    assert reverted_by(steps, {GROUPS[0]: "1 bit", GROUPS[1]: "1 bit"}) == frozenset()
