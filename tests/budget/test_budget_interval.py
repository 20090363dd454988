"""Drops and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.interval import Drop, function_drop, mean_drop
from recfx.data import auc, auc_difference


@given(st.integers(0, 100), st.integers(50, 300))
@settings(deadline=None, max_examples=10)
def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=rows), rng.normal(size=rows) - 0.3
    drop = mean_drop(before, after, 0.9, 2000, seed)
    error = (before - after).std() / rows**0.5
    assert drop.estimate == pytest.approx((before - after).mean())
    assert drop.interval is not None
    for end, sign in zip(drop.interval, (-1, 1), strict=True):
        assert end == pytest.approx(drop.estimate + sign * 1.645 * error, abs=0.35 * error)


def test_a_function_of_rows_agrees_with_the_interval_of_the_auc() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(600) < 0.3).astype(float)
    before = labels + rng.normal(size=600)
    after = before + 0.5 * rng.normal(size=600)
    drop = function_drop(auc, labels, before, after, 0.95, 500, 0)
    known = auc_difference(labels, before, after)
    assert drop.estimate == pytest.approx(-known.estimate)
    assert drop.interval == pytest.approx((-known.high, -known.low), abs=0.2 * (known.high - known.low))


def test_equal_models_drop_by_nothing() -> None:
    rows = np.arange(9.0)
    assert mean_drop(rows, rows, 0.95, 10, 0) == Drop(0.0, (0.0, 0.0), 0.95)
    assert function_drop(lambda labels, scores: float(scores.mean()), rows, rows, rows, 0.95, 10, 0).interval == (
        0.0,
        0.0,
    )


@pytest.mark.parametrize(
    ("drop", "within"),
    [
        (Drop(0.5e-3, (0.2e-3, 0.9e-3), 0.95), True),
        (Drop(0.5e-3, (0.2e-3, 1.1e-3), 0.95), False),
        (Drop(-2e-3, (-3e-3, -1e-3), 0.95), True),
        (Drop(2e-3, (1e-3, 0.9e-3), 0.95), False),
        (Drop(1e-3, None, 0.95), True),
        (Drop(1.1e-3, None, 0.95), False),
    ],
)
def test_an_interval_that_straddles_the_budget_is_not_within(drop: Drop, within: bool) -> None:
    assert drop.within(1e-3) is within


def test_the_cautious_drop_is_above_the_interval_and_grows_with_a_smaller_certificate() -> None:
    drop = Drop(1e-3, (0.0, 2e-3), 0.95)
    equal, smaller = drop.cautious(1.0), drop.cautious(4.0)
    assert equal is not None
    assert smaller is not None
    assert 2e-3 < equal < smaller
    assert Drop(1e-3, None, 0.95).cautious(1.0) is None
    assert Drop(1e-3, (1e-3, 1e-3), 0.95).cautious(1.0) == 1e-3
