"""Seconds by rows: monotone, equal to what was measured, invertible."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_kit import linear, measured, seconds, times

from recfx.cost.profile import Profile, ProfilePoint
from recfx.serve.policies import ServiceTimes, TimeCorrection


@given(measured)
def test_measured_times_are_kept_or_raised_to_those_of_fewer_rows(points: dict[int, float]) -> None:
    made = ServiceTimes(points)
    for rows in points:
        assert made.seconds(rows) == max(time for count, time in points.items() if count <= rows)


@given(times, st.integers(1, 5000), st.integers(1, 5000))
def test_more_rows_never_take_less_time(made: ServiceTimes, first: int, second: int) -> None:
    low, high = sorted((first, second))
    assert made.seconds(low) <= made.seconds(high) * (1 + 1e-12)


@given(times, seconds, st.integers(1, 5000))
def test_most_rows_is_the_inverse(made: ServiceTimes, budget: float, limit: int) -> None:
    found = made.most_rows(budget, limit)
    assert 0 <= found <= limit
    if found:
        assert made.seconds(found) <= budget * (1 + 1e-12)
    if found < limit:
        assert made.seconds(found + 1) >= budget * (1 - 1e-12)


def test_no_deadline_allows_every_row() -> None:
    assert linear().most_rows(math.inf, 700) == 700


@given(times, st.integers(1, 5000))
def test_no_measured_number_of_rows_computes_more_rows_per_second_than_the_best(made: ServiceTimes, limit: int) -> None:
    best = made.best_rows(limit)
    assert 1 <= best <= limit
    assert all(made.rate(rows) <= made.rate(best) for rows in (limit, max(limit // 2, 1)) if rows in (limit,))


def test_times_are_those_of_a_profile_of_a_compiled_model() -> None:
    points = tuple(ProfilePoint(1, rows, time) for rows, time in ((1, 1e-4), (16, 2e-4), (256, 1.5e-3)))
    profile = Profile("m", "c", points)
    made = ServiceTimes({point.rows: point.seconds for point in points})
    for rows in (1, 2, 7, 16, 100, 256, 300, 4096):
        assert made.seconds(rows) == pytest.approx(profile.seconds(rows, 1), rel=1e-12)
    assert made.rate(100) == pytest.approx(profile.rate(100, 1))


def test_one_measured_time_grows_in_proportion() -> None:
    made = ServiceTimes({10: 1.0})
    assert [made.seconds(rows) for rows in (0, 1, 10, 25)] == [1.0, 1.0, 1.0, 2.5]


@given(times, st.floats(0.01, 100.0), st.integers(1, 5000))
def test_a_slower_machine_takes_that_much_longer(made: ServiceTimes, factor: float, rows: int) -> None:
    assert made.scaled(factor).seconds(rows) == pytest.approx(made.seconds(rows) * factor, rel=1e-9)


@given(st.floats(0.1, 10.0))
def test_the_correction_converges_to_a_constant_ratio(ratio: float) -> None:
    correction = TimeCorrection()
    assert correction.factor == 1.0
    for _ in range(100):
        correction.observe(2.0, 2.0 * ratio)
    assert correction.factor == pytest.approx(ratio, rel=1e-3)


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(0.0, 1e6))))
def test_the_correction_stays_within_its_limits(calls: list[tuple[float, float]]) -> None:
    correction = TimeCorrection(weight=0.5, most=4.0)
    for predicted, taken in calls:
        correction.observe(predicted, taken)
        assert 0.25 - 1e-12 <= correction.factor <= 4.0 + 1e-12


def test_times_that_were_not_measured_do_not_correct() -> None:
    correction = TimeCorrection()
    correction.observe(0.0, 1.0)
    correction.observe(1.0, 0.0)
    assert correction.factor == 1.0


@given(times, st.floats(0.0, 2.0), st.integers(1, 5000))
def test_times_without_a_constant_part(made: ServiceTimes, part: float, rows: int) -> None:
    less = made.without(part)
    assert less.seconds(rows) <= made.seconds(rows) * (1 + 1e-9)
    if part <= 0.9 * made.seconds(1):
        assert less.seconds(rows) >= 0.0999 * made.seconds(1)
    assert made.without(0.0).seconds(rows) == made.seconds(rows)
