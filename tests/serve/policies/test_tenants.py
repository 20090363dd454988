"""Token buckets: no tenant gets more than its burst and its rate, and none takes another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import TenantConfig, TenantLimit, TenantLimits

arrivals = st.lists(st.tuples(st.integers(1, 50), st.floats(0.0, 2.0)), min_size=1, max_size=60)


@given(st.floats(1.0, 100.0), st.floats(50.0, 200.0), arrivals)
def test_a_tenant_gets_its_burst_and_its_rate_at_most(
    rate: float, burst: float, requests: list[tuple[int, float]]
) -> None:
    limits = TenantLimits(TenantConfig(TenantLimit(rate, burst)))
    now = admitted = 0.0
    for rows, pause in requests:
        now += pause
        if limits.admit("a", rows, now) == 0.0:
            admitted += rows
    assert admitted <= burst + rate * now + 1e-6


@given(st.floats(1.0, 100.0), st.floats(1.0, 200.0), arrivals)
def test_a_rejected_request_is_admitted_after_the_named_time(
    rate: float, burst: float, requests: list[tuple[int, float]]
) -> None:
    limits = TenantLimits(TenantConfig(TenantLimit(rate, burst)))
    now = 0.0
    for rows, pause in requests:
        now += pause
        wait = limits.admit("a", rows, now)
        assert wait >= 0.0
        if wait > 0.0:
            now += wait + 1e-9
            assert limits.admit("a", rows, now) <= 1e-6


@given(arrivals)
def test_one_tenant_does_not_take_from_another(requests: list[tuple[int, float]]) -> None:
    limit = TenantConfig(TenantLimit(20.0, 60.0))
    alone, together = TenantLimits(limit), TenantLimits(limit)
    now = 0.0
    for rows, pause in requests:
        now += pause
        together.admit("loud", 10_000, now)
        assert alone.admit("a", rows, now) == together.admit("a", rows, now)


def test_tenants_without_a_limit_are_admitted() -> None:
    limits = TenantLimits(TenantConfig(own={"a": TenantLimit(1.0, 1.0)}))
    assert all(limits.admit("b", 1000, 0.0) == 0.0 for _ in range(5))
    assert limits.admit("a", 1, 0.0) == 0.0
    assert limits.admit("a", 1, 0.0) == pytest.approx(1.0)


def test_a_request_above_the_burst_leaves_a_debt() -> None:
    limits = TenantLimits(TenantConfig(TenantLimit(10.0, 20.0)))
    assert limits.admit("a", 50, 0.0) == 0.0
    assert limits.admit("a", 5, 0.0) == pytest.approx(3.5)


def test_a_clock_that_jumps_back_gives_nothing() -> None:
    limits = TenantLimits(TenantConfig(TenantLimit(10.0, 10.0)))
    assert limits.admit("a", 10, 100.0) == 0.0
    assert limits.admit("a", 10, 50.0) == pytest.approx(1.0)
    assert limits.admit("a", 10, 101.0) == 0.0


def test_the_number_of_buckets_is_bounded() -> None:
    limits = TenantLimits(TenantConfig(TenantLimit(1.0, 4.0), most_tenants=3))
    assert [limits.admit(name, 2, 0.0) for name in "abc"] == [0.0] * 3
    assert [limits.admit(name, 2, 0.0) for name in "de"] == [0.0, 0.0]
    assert limits.admit("f", 2, 0.0) > 0.0  # d, e and f share one bucket
    assert limits.admit("f", 2, 60.0) == 0.0  # by now all are full, and full ones are forgotten
    assert len(limits._buckets) <= 4
