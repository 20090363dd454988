"""The solver against brute force on random graphs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.placement.solve import Problem, min_fill, solve


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Problems of up to seven variables with asymmetric tables, forbidden labels and forbidden pairs."""
    variables, labels = draw(st.integers(0, 7)), draw(st.integers(1, 4))
    costs = st.one_of(st.integers(0, 20).map(float), st.sampled_from([math.inf, -3.0]))
    own = [[draw(costs) for _ in range(labels)] for _ in range(variables)]
    possible = list(itertools.combinations(range(variables), 2))
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    pairs = {
        (pair if draw(st.booleans()) else pair[::-1]): np.array(
            draw(st.lists(costs, min_size=labels**2, max_size=labels**2))
        ).reshape(labels, labels)
        for pair in chosen
    }
    return Problem(np.array(own, dtype=float).reshape(variables, labels), pairs)


def brute_force(problem: Problem) -> float:
    variables, labels = problem.own.shape
    return min(problem.cost(choice) for choice in itertools.product(range(labels), repeat=variables))


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_solution_is_the_cheapest_choice(problem: Problem) -> None:
    found = solve(problem)
    assert found.exact
    assert found.cost == pytest.approx(brute_force(problem))
    assert found.cost == pytest.approx(problem.cost(found.labels))


@settings(deadline=None, max_examples=75)
@given(problems())
def test_a_small_limit_gives_a_choice_that_no_single_change_improves(problem: Problem) -> None:
    variables, labels = problem.own.shape
    found = solve(problem, most_entries=labels)
    assert found.cost >= brute_force(problem) - 1e-9
    assert found.cost == pytest.approx(problem.cost(found.labels))
    if found.exact:
        assert found.cost == pytest.approx(brute_force(problem))
    if math.isfinite(found.cost):
        for v, label in itertools.product(range(variables), range(labels)):
            changed = [*found.labels]
            changed[v] = label
            assert problem.cost(changed) >= found.cost - 1e-9


def grid(side: int, labels: int, seed: int) -> Problem:
    """Variables in a square, with tables between neighbours: a graph of large width."""
    rng = np.random.default_rng(seed)
    pairs: dict[tuple[int, int], Any] = {}
    for row, column in itertools.product(range(side), repeat=2):
        at = row * side + column
        for other in ([at + 1] if column + 1 < side else []) + ([at + side] if row + 1 < side else []):
            pairs[at, other] = rng.uniform(0, 1, (labels, labels)) * (1 - np.eye(labels))
    return Problem(rng.uniform(0, 1, (side * side, labels)), pairs)


def test_the_guard_finds_good_choices_on_wide_graphs() -> None:
    for seed in range(5):
        problem = grid(5, 3, seed)
        exact = solve(problem)
        found = solve(problem, most_entries=3**3)
        assert exact.exact
        assert not found.exact
        assert exact.cost <= found.cost <= 1.2 * exact.cost


def test_the_order_of_a_chain_and_of_a_ring_has_their_width() -> None:
    chain: dict[tuple[int, int], Any] = {(v, v + 1): np.zeros((2, 2)) for v in range(9)}
    assert min_fill(10, chain)[1] == 1
    assert min_fill(10, {**chain, (0, 9): np.zeros((2, 2))})[1] == 2
    assert sorted(min_fill(10, chain)[0]) == list(range(10))
    assert min_fill(3, {}) == ([0, 1, 2], 0)


def test_unsupported_everywhere_costs_infinity() -> None:
    own = np.array([[1.0, 2.0], [math.inf, math.inf]])
    assert math.isinf(solve(Problem(own, {(0, 1): np.ones((2, 2))})).cost)


def test_a_hundred_units_and_five_backends() -> None:
    rng = np.random.default_rng(0)
    pairs = {(v, w): rng.uniform(0, 1, (5, 5)) for v in range(99) for w in {v + 1, min(v + 3, 99)}}
    problem = Problem(rng.uniform(0, 1, (100, 5)), pairs)
    assert solve(problem).exact
