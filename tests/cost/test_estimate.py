"""Estimates: the order of their numbers holds under sums and factors, and a number outside the order is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.cost.estimate import NOTHING, Estimate
from recfx.errors import MeasureError

times = st.floats(0, 1e6)
estimates = st.tuples(times, times, times).map(sorted).map(lambda t: Estimate(t[1], t[0], t[2]))


@given(first=estimates, second=estimates, factor=st.floats(0, 1e6))
def test_sums_and_factors_keep_the_order(first: Estimate, second: Estimate, factor: float) -> None:
    total = first + second
    assert (total.seconds, total.low, total.high) == (
        first.seconds + second.seconds,
        first.low + second.low,
        first.high + second.high,
    )
    assert total == second + first
    assert first.scaled(factor).seconds == first.seconds * factor
    assert first + NOTHING == first


@given(first=estimates, second=estimates)
def test_intervals_overlap_in_both_orders(first: Estimate, second: Estimate) -> None:
    shared = max(first.low, second.low) <= min(first.high, second.high)
    assert first.overlaps(second) == second.overlaps(first) == shared


def test_work_that_a_backend_cannot_do() -> None:
    never = Estimate.exactly(math.inf)
    assert (never + Estimate(1, 0.5, 2)).seconds == math.inf
    assert never.scaled(0) == NOTHING
    assert never.scaled(2) == never


@pytest.mark.parametrize(
    ("seconds", "low", "high"), [(1, 2, 3), (3, 1, 2), (-1, -1, -1), (math.nan, 0, 1), (1, math.nan, 1), (0, -1, 1)]
)
def test_numbers_outside_the_order_are_refused(seconds: float, low: float, high: float) -> None:
    with pytest.raises(MeasureError, match="is not an estimate"):
        Estimate(seconds, low, high)


@pytest.mark.parametrize("factor", [-1, math.nan, math.inf])
def test_factors_that_are_refused(factor: float) -> None:
    with pytest.raises(MeasureError, match="cannot be scaled"):
        NOTHING.scaled(factor)


def test_text_is_in_microseconds() -> None:
    assert str(Estimate(12.34e-6, 1e-5, 2e-5)) == "12.34 us [10, 20]"
