"""Prequal: the hot-cold rule with its branches the right way round, the pool, ageing and reuse."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import Prequal, PrequalConfig
from recfx.serve.policies.prequal import uses_of_a_probe

probes = st.lists(st.tuples(st.integers(0, 40), st.floats(1e-4, 1.0)), min_size=2, max_size=16)


def still(**values: float) -> PrequalConfig:
    """A pool that keeps its probes."""
    return PrequalConfig(removals=0.0, probes=0.1, **values)  # type: ignore[arg-type]


@given(probes, st.floats(0.0, 1.0))
def test_a_cold_probe_with_the_lowest_latency_is_chosen_or_else_the_emptiest(
    answers: list[tuple[int, float]], quantile: float
) -> None:
    made = Prequal(range(len(answers)), Random(0), still(quantile=quantile))
    for replica, (in_flight, latency) in enumerate(answers):
        made.answered(replica, in_flight, latency, 0.0)
    loads = sorted(in_flight for in_flight, _ in answers)
    threshold = loads[max(math.ceil(quantile * len(loads)) - 1, 0)]
    assert made.threshold() == threshold
    cold = [(latency, in_flight) for in_flight, latency in answers if in_flight <= threshold]
    chosen = answers[made.choose(0.0)]
    if cold:
        assert (chosen[1], chosen[0]) == min(cold)
    else:
        assert chosen == min(answers)


def test_all_hot_probes_give_the_one_with_the_fewest_in_flight() -> None:
    made = Prequal(range(30), Random(0), still(quantile=0.5))
    for replica in range(20):
        made.answered(replica, 1, 0.001, 0.0)  # their loads set the threshold
    for replica in range(20, 30):
        made.remove(replica)
    for replica in range(20):
        made.remove(replica) if replica > 2 else None
    for replica, (in_flight, latency) in enumerate([(9, 0.001), (7, 0.9), (8, 0.002)]):
        made.answered(replica, in_flight, latency, 0.0)
    assert made.threshold() == 1
    assert made.choose(0.0) == 1


def test_a_slow_cold_replica_loses_to_a_quicker_one_with_more_in_flight() -> None:
    made = Prequal(range(4), Random(0), still(quantile=1.0))
    for replica, (in_flight, latency) in enumerate([(0, 0.5), (3, 0.01), (2, 0.02), (1, 0.4)]):
        made.answered(replica, in_flight, latency, 0.0)
    assert made.choose(0.0) == 1


def test_requests_sent_on_a_probe_count_in_it() -> None:
    made = Prequal(range(2), Random(0), still(quantile=0.5))
    made.answered(0, 0, 0.01, 0.0)
    made.answered(1, 0, 0.02, 0.0)
    assert [made.choose(0.0) for _ in range(2)] == [0, 1]  # after the first choice, replica 0 is hot
    assert {probe.replica: probe.in_flight for probe in made.pool} == {0: 1, 1: 1}


def test_answers_and_the_balancers_own_requests_keep_the_count_of_a_probe_up_to_date() -> None:
    made = Prequal(range(2), Random(0), still())
    made.answered(0, 7, 0.01, 0.0)
    made.answered(1, 9, 0.02, 0.0)
    assert made.choose(0.0) == 0
    made.finished(0, 0.01, 0.1)
    assert {probe.replica: probe.in_flight for probe in made.pool} == {0: 7, 1: 9}
    for _ in range(3):
        made.choose(0.2)
    made.answered(0, 1, 0.01, 0.2)  # on its way while three requests were sent
    assert made.pool[-1].in_flight == 3


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 50), st.floats(0.0, 5.0)), max_size=200))
def test_the_pool_stays_within_its_size_and_age(answers: list[tuple[int, int, float]]) -> None:
    made = Prequal(range(100), Random(0), PrequalConfig(most_age=1.0))
    now = 0.0
    for replica, in_flight, pause in answers:
        now += pause
        made.answered(replica, in_flight, 0.01, now)
        made.choose(now)
        assert len(made.pool) <= 16
        assert len({probe.replica for probe in made.pool}) == len(made.pool)
        assert all(now - probe.received <= 1.0 for probe in made.pool)


def test_old_probes_are_replaced_by_chance() -> None:
    made = Prequal(range(50), Random(0))
    for replica in range(16):
        made.answered(replica, 0, 0.01, 0.0)
    chosen = Counter(made.choose(10.0) for _ in range(200))
    assert made.pool == ()
    assert len(chosen) > 30


def test_a_full_pool_loses_its_oldest_probe() -> None:
    made = Prequal(range(50), Random(0), PrequalConfig(pool=4))
    for replica in range(5):
        made.answered(replica, 0, 0.01, replica * 0.01)
    assert [probe.replica for probe in made.pool] == [1, 2, 3, 4]
    made.answered(2, 5, 0.02, 0.1)
    assert [probe.replica for probe in made.pool] == [1, 3, 4, 2]


def test_removals_take_the_worst_and_the_oldest_in_turn() -> None:
    made = Prequal(range(50), Random(0), PrequalConfig(quantile=0.5, removals=1.0, probes=1.0))
    for replica, in_flight in enumerate([5, 0, 0, 9, 0, 0]):
        made.answered(replica, in_flight, 0.01 + replica / 1000, 0.0)
    assert made.choose(0.0) == 1
    assert 3 not in {probe.replica for probe in made.pool}  # hot, with the most in flight
    made.choose(0.0)
    assert 0 not in {probe.replica for probe in made.pool}  # the oldest
    for _ in range(20):
        made.choose(0.0)
    assert len(made.pool) == 2


def test_a_pool_with_a_place_for_every_replica_keeps_its_probes() -> None:
    made = Prequal(range(16), Random(0), PrequalConfig(probes=1.0))
    for replica in range(16):
        made.answered(replica, 0, 0.01, 0.0)
    for _ in range(10):
        made.choose(0.0)
    assert len(made.pool) == 16


def test_a_cold_pool_loses_the_probe_with_the_highest_latency() -> None:
    made = Prequal(range(50), Random(0), PrequalConfig(quantile=1.0, probes=1.0))
    for replica, (in_flight, latency) in enumerate([(0, 0.01), (3, 0.05), (0, 0.02)]):
        made.answered(replica, in_flight, latency, 0.0)
    assert made.choose(0.0) == 0
    assert 1 not in {probe.replica for probe in made.pool}


@pytest.mark.parametrize(
    ("changes", "uses"),
    [
        ({}, 1),  # 2 / (3 - 1)
        ({"probes": 1.5}, 4),  # 2 / (1.5 - 1)
        ({"probes": 1.25, "removals": 0.25, "growth": 2.5}, 3),  # 3.5 / 1
        ({"probes": 5.0, "growth": 0.0}, 1),
        ({"probes": 1.0}, 16),  # nothing stays: the limit
        ({"probes": 0.5, "most_uses": 5}, 5),
    ],
)
def test_how_often_a_probe_may_be_used(changes: dict[str, float], uses: int) -> None:
    assert uses_of_a_probe(PrequalConfig(**changes)) == uses  # type: ignore[arg-type]


def test_a_used_up_probe_leaves_the_pool() -> None:
    made = Prequal(range(1000), Random(0), PrequalConfig(removals=0.0))
    for replica in range(5):
        made.answered(replica, 0, 0.01, 0.0)
    chosen = made.choose(0.0)
    assert chosen not in {probe.replica for probe in made.pool}


@given(st.floats(0.25, 5.0), st.integers(2, 40))
def test_probes_are_sent_at_the_configured_rate(rate: float, replicas: int) -> None:
    made = Prequal(range(replicas), Random(0), PrequalConfig(probes=rate, idle_seconds=1e9))
    sent = 0
    for number in range(200):
        made.choose(float(number))
        targets = made.probe_targets(float(number))
        assert len(set(targets)) == len(targets) <= replicas
        sent += len(targets)
    assert sent <= rate * 200 + 1
    if rate <= replicas:
        assert sent >= rate * 200 - 2


def test_an_idle_balancer_still_probes() -> None:
    made = Prequal(range(4), Random(0), PrequalConfig(idle_seconds=0.1))
    assert len(made.probe_targets(0.0)) == 1
    assert made.probe_targets(0.05) == []
    assert len(made.probe_targets(0.2)) == 1


def test_answers_of_unknown_replicas_are_ignored() -> None:
    made = Prequal(range(3), Random(0))
    made.answered(7, 0, 0.01, 0.0)
    made.answered(1, 0, 0.01, 0.0)
    made.remove(1)
    made.answered(1, 0, 0.01, 0.0)
    assert made.pool == ()
