"""Replica scaling: enough, not too many, never back and forth."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import ReplicaScaling, ScalingConfig


@given(st.floats(0.0, 1e5), st.integers(1, 100), st.floats(10.0, 1e4))
def test_a_constant_load_settles(need: float, replicas: int, rate: float) -> None:
    scaling = ReplicaScaling(ScalingConfig(least=1, most=200, patience=3))
    seen = []
    for _ in range(450):
        replicas = scaling.observe(need, 0, replicas, rate)
        seen.append(replicas)
    assert len(set(seen[-20:])) == 1
    last = seen[-1]
    assert need <= 0.95 * last * rate * (1 + 1e-9) or last == 200
    assert last == 1 or need > 0.85 * (last - 1) * rate


@given(st.floats(0.0, 1e6), st.integers(1, 50), st.floats(1.0, 1e4))
def test_one_step_is_enough_and_within_the_bounds(need: float, replicas: int, rate: float) -> None:
    wanted = ReplicaScaling(ScalingConfig(least=2, most=40)).observe(need, 0, replicas, rate)
    assert 2 <= wanted <= 40
    assert wanted == 40 or need <= 0.95 * wanted * rate * (1 + 1e-9)


@given(st.floats(0.0, 1e5), st.floats(0.0, 1e5), st.integers(1, 50))
def test_more_load_never_gives_fewer_replicas(first: float, second: float, replicas: int) -> None:
    low, high = sorted((first, second))
    few, many = (ReplicaScaling().observe(need, 0, replicas, 100.0) for need in (low, high))
    assert few <= many


def test_a_replica_is_removed_only_after_enough_calm_observations() -> None:
    scaling = ReplicaScaling(ScalingConfig(patience=3))
    assert [scaling.observe(100.0, 0, 4, 100.0) for _ in range(3)] == [4, 4, 3]
    assert scaling.observe(100.0, 0, 3, 100.0) == 3
    assert scaling.observe(290.0, 0, 3, 100.0) == 4  # begins the count again
    assert [scaling.observe(100.0, 0, 4, 100.0) for _ in range(3)] == [4, 4, 3]


def test_waiting_rows_and_the_time_to_load_count() -> None:
    config = ScalingConfig(drain_seconds=1.0, anticipation=0.2)
    assert ReplicaScaling(config).observe(90.0, 0, 1, 100.0) == 1
    assert ReplicaScaling(config).observe(90.0, 200, 1, 100.0) == 1 + math.ceil(195 / 95)
    assert ReplicaScaling(config).observe(100.0, 0, 1, 100.0, load_seconds=30.0) == 1 + math.ceil((5 + 600) / 95)
