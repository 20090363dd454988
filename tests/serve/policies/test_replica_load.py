"""What a replica answers to a probe."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import ReplicaLoad


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=30))
def test_the_estimate_is_the_median_of_recent_latencies(latencies: list[float]) -> None:
    load = ReplicaLoad(samples=5)
    for latency in latencies:
        load.finished(load.arrived(), latency, 0.0)
    recent = latencies[-5:]
    assert statistics.median_low(recent) <= load.estimate(0.0) <= statistics.median_high(recent)


def test_the_estimate_is_that_of_the_closest_number_in_flight() -> None:
    load = ReplicaLoad()
    first, second, third = load.arrived(), load.arrived(), load.arrived()
    assert (first, second, third) == (0, 1, 2)
    load.finished(third, 0.3, 0.0)
    load.finished(first, 0.1, 0.0)
    assert load.in_flight == 1
    assert load.estimate(0.0) in (0.1, 0.3)
    load.finished(second, 0.2, 0.0)
    assert load.estimate(0.0) == 0.1
    for _ in range(50):
        load.arrived()
    assert load.estimate(0.0) == 0.3


def test_nothing_is_known_at_first() -> None:
    assert ReplicaLoad().estimate(5.0) == 0.0


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_an_estimate_falls_without_new_latencies(first: float, second: float) -> None:
    load = ReplicaLoad(half_life=10.0)
    load.finished(load.arrived(), 1.0, 0.0)
    low, high = sorted((first, second))
    assert load.estimate(high) <= load.estimate(low) <= 1.0
    assert load.estimate(10.0) == pytest.approx(0.5)
    assert load.estimate(-5.0) == 1.0


def test_requests_without_an_answer_leave_no_latency() -> None:
    load = ReplicaLoad()
    load.arrived()
    load.dropped()
    load.dropped()
    assert (load.in_flight, load.estimate(0.0)) == (0, 0.0)
