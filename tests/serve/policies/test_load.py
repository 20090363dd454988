"""The load meter counts the rows of its window; the busy meter averages the cores in use over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import BusyMeter, LoadMeter


@given(st.floats(1.0, 1000.0), st.integers(1, 500), st.integers(1, 8))
def test_a_constant_load_is_measured(rate: float, rows: int, buckets: int) -> None:
    meter = LoadMeter(seconds=1.0, buckets=buckets)
    requests = int(rate * 3) + 1
    for number in range(requests):
        meter.record(rows, number / rate)
    end = (requests - 1) / rate
    assert meter.requests_per_second(end) == pytest.approx(rate, abs=1.0 + 2.0 * buckets + rate / 50)
    assert meter.rows_per_second(end) == pytest.approx(rows * meter.requests_per_second(end))


def test_the_load_is_forgotten_after_the_window() -> None:
    meter = LoadMeter(seconds=1.0, buckets=4)
    for _ in range(100):
        meter.record(3, 0.5)
    assert meter.rows_per_second(0.6) > 0.0
    assert meter.rows_per_second(0.5 + 1.5) == 0.0
    assert meter.rows_per_second(1e9) == 0.0


def test_the_first_request_is_not_a_high_rate() -> None:
    meter = LoadMeter(seconds=1.0, buckets=4, now=100.0)
    meter.record(10, 100.0)
    assert meter.rows_per_second(100.0) == 40.0  # one bucket of a quarter of a second


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 100)), min_size=1))
def test_a_clock_that_jumps_back_loses_nothing_within_the_window(arrivals: list[tuple[float, int]]) -> None:
    meter = LoadMeter(seconds=1e4, buckets=2, now=0.0)
    for now, rows in arrivals:
        meter.record(rows, now)
    total = sum(rows for _, rows in arrivals)
    assert meter.rows_per_second(-5.0) == pytest.approx(total / 5e3)


@given(st.integers(1, 16), st.data())
def test_a_constant_number_of_busy_cores_is_their_share(cores: int, data: st.DataObject) -> None:
    meter, used = BusyMeter(cores), data.draw(st.integers(0, cores))
    meter.changed(used, 0.0)
    shares = [meter.share(now) for now in (0.0, 0.5, 1.0, 5.0, 50.0)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(used / cores)


@given(st.lists(st.tuples(st.floats(-5.0, 100.0), st.integers(-1, 9)), max_size=30))
def test_the_share_stays_between_0_and_1_also_when_the_clock_jumps(changes: list[tuple[float, int]]) -> None:
    meter = BusyMeter(4)
    for now, used in changes:
        meter.changed(max(used, 0), now)
        assert 0.0 <= meter.share(now) <= 1.0


def test_rare_calls_on_all_cores_are_not_a_high_load() -> None:
    meter = BusyMeter(2)
    for number in range(100):  # 10 ms of each 100 ms
        meter.changed(2, number * 0.1)
        assert meter.share(number * 0.1) < 0.12
        meter.changed(0, number * 0.1 + 0.01)
    assert meter.share(10.0) == pytest.approx(0.1, abs=0.01)
