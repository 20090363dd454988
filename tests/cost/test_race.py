"""Races under a clock that the candidates move: the fastest wins, the slow ones drop out early, and the time is bounded."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.cost.race import race


class Clock:
    """A clock in nanoseconds that candidates move."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: dict[str, int] = {}

    def __call__(self) -> int:
        return self.now

    def candidate(self, name: str, seconds: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.now += round(seconds() * 1e9)

        return call


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-6, 0.2), min_size=1, max_size=8), st.floats(0.0, 0.3), st.integers(0, 1000))
def test_the_fastest_wins_in_spite_of_noise(times: list[float], noise: float, seed: int) -> None:
    """Half of the calls are disturbed: they take up to 1.3 times as long."""
    clock, draw = Clock(), random.Random(seed)

    def noisy(time: float) -> Callable[[], float]:
        return lambda: time * (1 + (noise * draw.random() if draw.random() < 0.5 else 0.0))

    calls = {str(at): clock.candidate(str(at), noisy(time)) for at, time in enumerate(times)}
    found = race(calls, seconds=0.5, deadline=1e9, clock=clock)
    fastest = min(times)
    assert times[int(found.left[0])] <= (1 + noise) * fastest
    assert all(times[int(name)] <= 1.5 * (1 + noise) * fastest for name in found.left)
    assert found.seconds.keys() == calls.keys()
    assert all(times[int(n)] <= s * 1.001 <= times[int(n)] * (1 + noise) * 1.002 for n, s in found.seconds.items())
    assert not found.failed


def test_slow_candidates_get_few_calls() -> None:
    clock = Clock()
    times = {"slow": 0.2, "fast": 0.1, "close": 0.1015, "hopeless": 3.0}
    found = race({n: clock.candidate(n, lambda n=n: times[n]) for n in times}, seconds=2.0, deadline=1e9, clock=clock)
    assert found.left[0] == "fast"
    assert "close" in found.left
    assert clock.calls["slow"] == clock.calls["hopeless"] == 2, "one untimed and one timed call"
    assert clock.calls["fast"] > 5
    assert found.seconds["hopeless"] == pytest.approx(3.0)


@pytest.mark.parametrize("ratio", [1.05, 1.1, 1.2])
def test_a_candidate_that_is_slower_in_every_round_drops_out(ratio: float) -> None:
    clock = Clock()
    calls = {"a": clock.candidate("a", lambda: ratio * 1e-3), "b": clock.candidate("b", lambda: 1e-3)}
    found = race(calls, seconds=10.0, deadline=1e9, clock=clock)
    assert found.left == ("b",)
    assert clock.now < 1e9, "the race ends when one is left"


def test_the_race_ends_when_the_preferred_candidate_is_among_the_best() -> None:
    for kept, ends_early in (("a", True), (None, False)):
        clock = Clock()
        calls = {"a": clock.candidate("a", lambda: 1.01e-3), "b": clock.candidate("b", lambda: 1e-3)}
        found = race(calls, seconds=1.0, deadline=1e9, kept=kept, clock=clock)
        assert set(found.left) == {"a", "b"}
        assert (clock.now < 0.5e9) == ends_early


def test_the_deadline_ends_a_race_of_long_calls() -> None:
    clock = Clock()
    calls = {name: clock.candidate(name, lambda: 1.0) for name in "abcdef"}
    found = race(calls, seconds=0.5, deadline=5.5, expected=dict.fromkeys(calls, 1.0), clock=clock)
    assert clock.now == 4e9, "two calls of each of two candidates; a third one would end after the deadline"
    assert set(found.seconds) == {"a", "b"}
    found = race(calls, seconds=0.5, deadline=-1.0, expected=dict.fromkeys(calls, 1.0), clock=clock)
    assert found.left == ("a",), "the first candidate is called in any case"


def test_long_calls_of_candidates_without_a_chance_are_not_made() -> None:
    clock = Clock()
    times = {"a": 0.1, "b": 0.12, "c": 0.2}
    race(
        {n: clock.candidate(n, lambda n=n: times[n]) for n in times},
        seconds=0,
        deadline=1e9,
        expected=times,
        clock=clock,
    )
    assert "c" not in clock.calls
    assert clock.calls["b"] >= 2
    short = {name: time / 1000 for name, time in times.items()}
    race(
        {n: clock.candidate(n, lambda n=n: short[n]) for n in short},
        seconds=0,
        deadline=1e9,
        expected=short,
        clock=clock,
    )
    assert "c" in clock.calls


@pytest.mark.parametrize("at", [1, 2, 3, 14, 30])
def test_a_candidate_that_fails_is_left_out(at: int) -> None:
    clock = Clock()

    def seconds() -> float:
        if clock.calls["b"] >= at:
            raise RuntimeError("engine")
        return 1e-3

    calls = {"a": clock.candidate("a", lambda: 1e-3), "b": clock.candidate("b", seconds)}
    found = race(calls, seconds=1.0, deadline=1e9, clock=clock)
    assert found.left == ("a",)
    assert isinstance(found.failed["b"], RuntimeError)
    assert set(found.seconds) == {"a"}
