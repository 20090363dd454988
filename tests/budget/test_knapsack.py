"""The multiple-choice knapsack: feasible, as good as promised, and exact where weights are whole buckets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.knapsack import choose

Units = list[list[tuple[float, float]]]

_numbers = st.floats(0, 10).map(lambda value: round(value, 3))
_units = st.lists(st.lists(st.tuples(_numbers, _numbers), min_size=1, max_size=4), min_size=1, max_size=5)


def solved(units: Units, capacity: float, **options: int) -> list[int]:
    worth, weight = ([np.array([option[i] for option in unit]) for unit in units] for i in (0, 1))
    return choose(worth, weight, capacity, **options)


def total(units: Units, chosen: tuple[int, ...] | list[int], part: int) -> float:
    return sum(unit[option][part] for unit, option in zip(units, chosen, strict=True))


def best(units: Units, capacity: float) -> float:
    """By trying all choices; -inf if none fits."""
    choices = itertools.product(*(range(len(unit)) for unit in units))
    return max((total(units, c, 0) for c in choices if total(units, c, 1) <= capacity), default=-np.inf)


@given(_units, st.floats(0, 40))
@settings(deadline=None)
def test_a_choice_keeps_the_capacity_and_is_nearly_the_best(units: Units, capacity: float) -> None:
    chosen = solved(units, capacity)
    lightest = sum(min(weight for _, weight in unit) for unit in units)
    if lightest > capacity:
        assert total(units, chosen, 1) == pytest.approx(lightest)
        return
    assert total(units, chosen, 1) <= capacity + 1e-9
    smaller = capacity - (capacity - lightest) * len(units) / 4096
    assert total(units, chosen, 0) >= best(units, smaller - 1e-9) - 1e-9


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=5)
)
@settings(deadline=None)
def test_weights_that_are_whole_buckets_give_the_best_choice(units: Units) -> None:
    lightest = sum(min(weight for _, weight in unit) for unit in units)
    for room in (1, 4, 16):
        found = solved(units, lightest + room, buckets=room)
        assert total(units, found, 0) == best(units, lightest + room)


def test_it_agrees_with_a_solver_of_integer_programs() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(0)
    worth, weight = ([generator.random(6).cumsum() for _ in range(40)] for _ in range(2))
    for values in (*worth, *weight):
        values[0] = 0.0
    capacity = 30.0
    rows = np.kron(np.eye(40), np.ones(6))
    limits = [
        optimize.LinearConstraint(rows, 1, 1),
        optimize.LinearConstraint(np.concatenate(weight)[None], -np.inf, capacity),
    ]
    exact = optimize.milp(-np.concatenate(worth), constraints=limits, integrality=1, bounds=optimize.Bounds(0, 1))
    chosen = choose(worth, weight, capacity)
    found = sum(values[option] for values, option in zip(worth, chosen, strict=True))
    assert sum(values[option] for values, option in zip(weight, chosen, strict=True)) <= capacity
    assert 0.99 * -exact.fun <= found <= -exact.fun + 1e-9


@pytest.mark.parametrize(
    ("units", "capacity", "chosen"),
    [
        ([], 1.0, []),
        ([[(0.0, 0.0), (5.0, 0.0)]], 0.0, [1]),  # what weighs nothing is taken without any capacity
        ([[(0.0, 0.0), (5.0, 1.0)]], 0.0, [0]),
        ([[(0.0, 0.0), (5.0, float("inf"))]], 9.0, [0]),
        ([[(0.0, 2.0), (1.0, 3.0)]], 1.0, [0]),  # nothing fits: the lightest
        ([[(0.0, 0.0), (-1.0, 0.5)]], 9.0, [0]),
    ],
)
def test_edges(units: Units, capacity: float, chosen: list[int]) -> None:
    assert solved(units, capacity) == chosen
