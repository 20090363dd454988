"""Routers count what is in flight, spread requests, and follow their rule."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import LeastInFlight, PeakEwma, PeakEwmaConfig, PowerOfTwo, Prequal, RoundRobin, Router

KINDS = ["round robin", "least in flight", "power of two", "peak ewma", "prequal"]


def router(kind: str, replicas: int, seed: int = 0) -> Router[int]:
    names = range(replicas)
    if kind == "round robin":
        return RoundRobin(names)
    if kind == "least in flight":
        return LeastInFlight(names)
    classes = {"power of two": PowerOfTwo, "peak ewma": PeakEwma, "prequal": Prequal}
    return classes[kind](names, Random(seed))


@given(st.data())
def test_counts_in_flight_are_those_of_the_open_requests(data: st.DataObject) -> None:
    made = router(data.draw(st.sampled_from(KINDS)), 5, data.draw(st.integers(0, 99)))
    open_requests: list[int] = []
    known = set(range(5))
    for step in range(data.draw(st.integers(1, 60))):
        action = data.draw(st.sampled_from(["choose", "choose", "finish", "remove", "add"]))
        if action == "choose":
            chosen = made.choose(float(step))
            assert chosen in known
            open_requests.append(chosen)
        elif action == "finish" and open_requests:
            ended = open_requests.pop(data.draw(st.integers(0, len(open_requests) - 1)))
            made.finished(ended, data.draw(st.floats(0.0, 2.0)), float(step), data.draw(st.booleans()))
        elif action == "remove" and len(known) > 1:
            gone = data.draw(st.sampled_from(sorted(known)))
            made.remove(gone)
            known.remove(gone)
            open_requests = [replica for replica in open_requests if replica != gone]
        elif action == "add" and len(known) < 5:
            new = min(set(range(5)) - known)
            made.add(new)
            known.add(new)
        counted = Counter(open_requests)
        assert {replica: made.in_flight(replica) for replica in range(5)} == {r: counted[r] for r in range(5)}
        assert set(made.replicas) == known


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replicas", [1, 2, 7])
def test_equal_replicas_all_get_requests(kind: str, replicas: int) -> None:
    made = router(kind, replicas)
    counted: Counter[int] = Counter()
    for number in range(300):
        chosen = made.choose(number * 0.01)
        counted[chosen] += 1
        made.finished(chosen, 0.005, number * 0.01 + 0.005)
    assert set(counted) == set(range(replicas))


@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_avoids_the_replica_that_failed(kind: str) -> None:
    made = router(kind, 3)
    for number in range(50):
        assert made.choose(float(number), avoid=1) != 1
    alone = router(kind, 1)
    assert alone.choose(0.0, avoid=0) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_choices(kind: str) -> None:
    first, second = router(kind, 9, seed=3), router(kind, 9, seed=3)
    assert [first.choose(float(n)) for n in range(100)] == [second.choose(float(n)) for n in range(100)]


@given(st.integers(1, 9), st.integers(0, 50))
def test_round_robin_visits_every_replica_once_in_a_turn(replicas: int, before: int) -> None:
    made = router("round robin", replicas)
    for _ in range(before):
        made.choose(0.0)
    assert sorted(made.choose(0.0) for _ in range(replicas)) == list(range(replicas))


@given(st.data())
def test_least_in_flight_takes_a_replica_with_the_fewest(data: st.DataObject) -> None:
    made = LeastInFlight(range(4))
    open_requests: list[int] = []
    for _ in range(data.draw(st.integers(1, 40))):
        if open_requests and data.draw(st.booleans()):
            ended = open_requests.pop(data.draw(st.integers(0, len(open_requests) - 1)))
            made.finished(ended, 0.1, 0.0)
        else:
            fewest = min(made.in_flight(replica) for replica in range(4))
            chosen = made.choose(0.0)
            assert made.in_flight(chosen) == fewest + 1
            open_requests.append(chosen)


@given(st.integers(2, 30), st.integers(0, 1000))
def test_power_of_two_never_takes_the_replica_with_the_most(replicas: int, seed: int) -> None:
    made = PowerOfTwo(range(replicas), Random(seed))
    for _ in range(5 * replicas):
        counts = {replica: made.in_flight(replica) for replica in range(replicas)}
        chosen = made.choose(0.0)
        most = max(counts.values())
        if list(counts.values()).count(most) == 1:
            assert counts[chosen] < most


def test_power_of_two_keeps_queues_shorter_than_chance() -> None:
    random = Random(1)
    made = PowerOfTwo(range(200), Random(1))
    for _ in range(2000):
        made.choose(0.0)
    chance = Counter(random.randrange(200) for _ in range(2000))
    assert max(made.in_flight(replica) for replica in range(200)) < max(chance.values()) - 3


@given(st.floats(1e-3, 0.5), st.floats(1.1, 50.0))
def test_peak_ewma_rises_at_once_and_falls_slowly(latency: float, factor: float) -> None:
    made = PeakEwma(range(2), Random(0))
    made.finished(0, latency, 1.0)
    made.finished(0, latency * factor, 1.1)
    assert made.latency(0, 1.1) == latency * factor
    made.finished(0, latency, 1.2)
    assert latency < made.latency(0, 1.2) < latency * factor
    assert made.latency(0, 1.2) > 0.9 * latency * factor


def test_peak_ewma_tries_a_slow_replica_again_after_a_while() -> None:
    made = PeakEwma(range(2), Random(0), PeakEwmaConfig(decay_seconds=1.0))
    made.finished(0, 5.0, 0.0)
    made.finished(1, 0.1, 0.0)
    assert {made.choose(0.0) for _ in range(5)} == {1}
    made.finished(1, 0.1, 20.0)
    assert made.latency(0, 20.0) < made.latency(1, 20.0)
    assert made.choose(20.0) == 0


def test_errors_that_return_quickly_do_not_attract_requests() -> None:
    made = PeakEwma(range(2), Random(0))
    made.finished(0, 1e-4, 0.0, ok=False)
    made.finished(1, 0.05, 0.0)
    assert {made.choose(0.1) for _ in range(5)} == {1}


def test_a_removed_replica_is_forgotten() -> None:
    made = PeakEwma(range(2), Random(0), PeakEwmaConfig(first_seconds=0.05))
    made.finished(0, 5.0, 0.0)
    made.remove(0)
    made.finished(0, 5.0, 0.0)
    made.remove(0)
    made.add(0)
    assert made.latency(0, 0.0) == 0.05
