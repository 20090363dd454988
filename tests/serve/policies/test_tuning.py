"""DeepRecSys' tuning: the rate search finds the limit of a server, the climb finds the top of a hill."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recfx.serve.policies import DeepRecSysClimb, HillClimb, RateSearch, RateSearchConfig, Trial


@given(st.floats(1.0, 1e5), st.floats(1.0, 1e4), st.floats(0.005, 0.4))
@example(80.0, 1.0, 0.005)  # the first rate near the limit ends the search
def test_the_rate_search_finds_the_largest_rate(capacity: float, first: float, sla: float) -> None:
    service = 1e-3
    search = RateSearch(RateSearchConfig(sla, first_rate=first, stable=0.02, precision=0.01))
    while (rate := search.ask()) is not None:
        load = rate / capacity
        search.tell(service / (1.0 - load) if load < 1.0 else math.inf)
    largest = capacity * (1.0 - service / sla)
    assert 0.9 * largest <= search.rate <= largest


def test_the_search_ends_at_a_rate_just_within_the_limit() -> None:
    search = RateSearch(RateSearchConfig(0.1, first_rate=100.0, factor=1.5, stable=0.25))
    search.tell(0.05)
    assert search.ask() == pytest.approx(150.0)
    search.tell(0.09)  # above 0.1 / 1.25, where the rate does not rise any more
    assert search.ask() is None
    assert search.rate == pytest.approx(150.0)


def test_a_server_that_never_keeps_the_limit_has_no_rate() -> None:
    search = RateSearch(RateSearchConfig(0.01, most_trials=5))
    trials = 0
    while search.ask() is not None:
        search.tell(math.inf)
        trials += 1
    assert (search.rate, trials) == (0.0, 5)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12, unique=True), st.integers(0, 11))
def test_the_climb_finds_the_top_of_one_hill(values: list[int], at: int) -> None:
    top = at % len(values)
    climb = HillClimb(values)
    tried = 0
    while (value := climb.ask()) is not None:
        climb.tell(-abs(values.index(value) - top))
        tried += 1
    assert climb.best == (values[top], 0)
    assert tried == min(top + 2, len(values))


def test_patience_crosses_a_dip() -> None:
    scores = {1: 5.0, 2: 4.0, 3: 9.0, 4: 1.0, 5: 1.0}
    for patience, best in ((1, 1), (2, 3)):
        climb = HillClimb(list(scores), patience)
        while (value := climb.ask()) is not None:
            climb.tell(scores[value])
        assert climb.best == (best, scores[best])


def run(climb: DeepRecSysClimb, scores: dict[Trial, float]) -> list[Trial]:
    tried = []
    while (trial := climb.ask()) is not None:
        climb.tell(scores[trial])
        tried.append(trial)
    return tried


def test_the_batch_first_then_the_threshold() -> None:
    climb = DeepRecSysClimb((512, 256, 128, 64), (512, 256, 96))
    scores = {
        **{Trial(512): 10.0, Trial(256): 20.0, Trial(128): 15.0},
        **{Trial(256, 512): 22.0, Trial(256, 256): 30.0, Trial(256, 96): 25.0},
    }
    assert run(climb, scores) == list(scores)
    assert climb.best == (Trial(256, 256), 30.0)


def test_a_second_device_that_does_not_help_is_not_used() -> None:
    climb = DeepRecSysClimb((64, 32), (96,))
    assert climb.best is None
    run(climb, {Trial(64): 10.0, Trial(32): 9.0, Trial(64, 96): 8.0})
    assert climb.best == (Trial(64), 10.0)


@pytest.mark.parametrize("thresholds", [(), (96,)])
def test_without_a_second_device_only_batches_are_tried(thresholds: tuple[int, ...]) -> None:
    climb = DeepRecSysClimb((64,), thresholds)
    assert run(climb, {Trial(64): 1.0, Trial(64, 96): 2.0}) == [Trial(64), Trial(64, 96)][: 1 + len(thresholds)]
