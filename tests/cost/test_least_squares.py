"""Non-negative least squares: against SciPy, and the conditions of the optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.cost.least_squares import nonnegative_least_squares


@given(
    equations=st.integers(1, 30),
    unknowns=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    repeated=st.booleans(),
    positive=st.booleans(),
)
def test_no_other_point_is_better(equations: int, unknowns: int, seed: int, repeated: bool, positive: bool) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(equations, unknowns)) * 10.0 ** draw.integers(-2, 3, size=unknowns)
    matrix = np.abs(matrix) if positive else matrix
    if repeated:
        matrix[:, -1] = matrix[:, 0]
    target = draw.normal(size=equations)
    found = nonnegative_least_squares(matrix, target)
    assert (found >= 0).all()
    error = float(np.linalg.norm(matrix @ found - target))
    assert error <= optimize.nnls(matrix, target)[1] * (1 + 1e-6) + 1e-9


@given(unknowns=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_a_nonnegative_solution_is_recovered(unknowns: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    matrix, truth = draw.random((3 * unknowns, unknowns)), draw.random(unknowns) * (draw.random(unknowns) > 0.3)
    found = nonnegative_least_squares(matrix, matrix @ truth)
    assert np.allclose(matrix @ found, matrix @ truth, atol=1e-7)


@given(unknowns=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_the_start_does_not_change_the_result(unknowns: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    matrix, target = draw.normal(size=(unknowns + 5, unknowns)), draw.normal(size=unknowns + 5)
    matrix = np.concatenate([matrix, 0.1 * np.eye(unknowns)])
    target = np.concatenate([target, np.zeros(unknowns)])
    started = nonnegative_least_squares(matrix, target, np.ones(unknowns))
    assert np.allclose(started, nonnegative_least_squares(matrix, target), atol=1e-8)


def test_edges() -> None:
    assert nonnegative_least_squares(np.zeros((3, 0)), np.ones(3)).shape == (0,)
    assert nonnegative_least_squares(np.zeros((3, 2)), np.ones(3)).tolist() == [0, 0]
    assert nonnegative_least_squares(-np.ones((3, 1)), np.ones(3)).tolist() == [0]
    assert nonnegative_least_squares(np.zeros((0, 2)), np.zeros(0)).tolist() == [0, 0]
