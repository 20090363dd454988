"""Batching: bounds, no starvation, AIMD converges, deadlines are kept if they can be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_kit import Waiting, linear, times, waiting

from recfx.serve.policies import (
    AimdBatching,
    AimdConfig,
    BatchDecision,
    Batching,
    CandidateSplit,
    DeadlineBatching,
    DeadlineConfig,
    ServiceTimes,
    SplitConfig,
)

queues = st.lists(waiting, max_size=12)

#: Seconds by which requests may be late: none, some, or any.
graces = st.one_of(st.just(0.0), st.floats(0.0, 10.0), st.just(math.inf))


def policies(made: ServiceTimes, wait: float = 0.0) -> list[Batching]:
    aimd = AimdBatching(AimdConfig(0.01, most_wait=wait, most_rows=512))
    configs = [DeadlineConfig(most_wait=wait, most_rows=512, grace=grace) for grace in (0.0, 1.0, math.inf)]
    return [aimd, *(DeadlineBatching(made, config) for config in configs)]


@given(times, queues, st.floats(0.0, 30.0), st.floats(0.0, 1.0))
def test_a_decision_lies_within_the_queue(made: ServiceTimes, queue: list[Waiting], now: float, wait: float) -> None:
    for policy in policies(made, wait):
        decision = policy.next_batch(queue, now)
        assert 0 <= decision.drop <= decision.drop + decision.take <= len(queue)
        batch = queue[decision.drop : decision.drop + decision.take]
        assert decision.rows == sum(request.rows for request in batch)
        assert decision.rows <= 512 or decision.take == 1
        assert decision.take == 0 or decision.wait_until is None


@given(times, queues, st.floats(0.0, 30.0), st.floats(0.0, 1.0))
def test_no_request_starves(made: ServiceTimes, queue: list[Waiting], now: float, wait: float) -> None:
    for policy in policies(made, wait):
        rounds, left, later = 0, queue, now
        while left:
            decision = policy.next_batch(left, later)
            if decision.wait_until is not None:
                assert later < decision.wait_until <= min(request.arrived for request in left[decision.drop :]) + wait
                later = decision.wait_until
            left = left[decision.drop + decision.take :]
            rounds += 1
            assert rounds <= 40
        assert policy.next_batch(left, later) == BatchDecision(0)


def late(made: ServiceTimes, request: Waiting, now: float) -> float:
    """Seconds by which a request that is computed alone ends after its deadline."""
    return now + made.seconds(request.rows) - request.deadline


@given(times, queues, st.floats(0.0, 30.0), graces)
def test_a_dropped_request_would_have_been_later_than_the_grace(
    made: ServiceTimes, queue: list[Waiting], now: float, grace: float
) -> None:
    policy = DeadlineBatching(made, DeadlineConfig(reserve_seconds=0.001, grace=grace))
    decision = policy.next_batch(queue, now)
    for request in queue[: decision.drop]:
        assert late(made, request, now + 0.001) > grace
    if decision.take:
        assert late(made, queue[decision.drop], now + 0.001) <= grace + 1e-5


@given(times, queues, st.floats(0.0, 30.0))
def test_what_was_admitted_is_answered_unless_a_grace_ends(
    made: ServiceTimes, queue: list[Waiting], now: float
) -> None:
    assert DeadlineBatching(made).next_batch(queue, now).drop == 0


@given(times, queues, st.floats(0.0, 30.0), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_a_longer_grace_never_drops_more(
    made: ServiceTimes, queue: list[Waiting], now: float, first: float, second: float
) -> None:
    dropped = [
        DeadlineBatching(made, DeadlineConfig(grace=grace)).next_batch(queue, now).drop
        for grace in sorted((first, second))
    ]
    assert dropped[0] >= dropped[1]


@given(times, queues, st.floats(0.0, 30.0), st.floats(0.0, 0.5), graces)
def test_a_batch_keeps_its_earliest_deadline(
    made: ServiceTimes, queue: list[Waiting], now: float, margin: float, grace: float
) -> None:
    """A deadline that cannot be kept by its request alone does not count."""
    policy = DeadlineBatching(made, DeadlineConfig(margin=margin, grace=grace))
    decision = policy.next_batch(queue, now)
    batch = queue[decision.drop : decision.drop + decision.take]
    kept = min((request.deadline for request in batch if late(made, request, now) <= 0.0), default=math.inf)
    assert decision.deadline <= kept
    assert decision.deadline in {math.inf, *(request.deadline for request in batch)}
    if decision.take > 1:
        assert now + made.seconds(decision.rows) * (1.0 + margin) <= decision.deadline + 1e-9
    if decision.take and decision.drop + decision.take < len(queue):
        after = queue[decision.drop + decision.take]
        larger = now + made.seconds(decision.rows + after.rows) * (1.0 + margin)
        earliest = min(decision.deadline, after.deadline)
        assert larger > earliest - 1e-9 or decision.rows + after.rows > policy.config.most_rows


#: Rows and deadlines of a queue at 0 s, of which 100 rows take 2 ms -> requests taken, with the deadline that they keep.
LATE = {
    "a late request shares its batch with others": ([(100, 0.001), (100, 1.0), (100, 1.0)], 3, 1.0),
    "all are late": ([(100, 0.001), (100, 0.001)], 2, math.inf),
    "a late request may be in the middle": ([(100, 0.0035), (900, 0.004), (10, 0.02)], 1, 0.0035),
    "the others keep their deadlines": ([(100, 0.001), (100, 0.0025), (100, 0.0025)], 1, math.inf),
    "one of the others fits beside it": ([(100, 0.001), (100, 0.0035), (100, 0.0035)], 2, 0.0035),
    "a full batch ends": ([(100, 0.001), (900, 0.001), (100, 0.001)], 2, math.inf),
}


@pytest.mark.parametrize("name", LATE)
def test_a_late_request_is_answered_and_limits_nobody(name: str) -> None:
    given, taken, deadline = LATE[name]
    policy = DeadlineBatching(linear(), DeadlineConfig(most_rows=1024))
    decision = policy.next_batch([Waiting(rows, deadline=end) for rows, end in given], 0.0)
    assert (decision.drop, decision.take, decision.deadline) == (0, taken, deadline)


@pytest.mark.parametrize(("grace", "dropped", "taken"), [(0.0, 2, 1), (0.0005, 2, 1), (0.0015, 1, 2), (math.inf, 0, 3)])
def test_the_grace_says_how_late_an_answer_may_be(grace: float, dropped: int, taken: int) -> None:
    policy = DeadlineBatching(linear(), DeadlineConfig(grace=grace))
    queue = [Waiting(100, deadline=deadline) for deadline in (-0.5, 0.001, 1.0)]  # late by 502 ms and by 1 ms
    decision = policy.next_batch(queue, 0.0)
    assert (decision.drop, decision.take) == (dropped, taken)


def test_a_request_beyond_the_grace_joins_no_batch() -> None:
    policy = DeadlineBatching(linear(), DeadlineConfig(grace=0.0015))
    queue = [Waiting(100, deadline=0.001), Waiting(900, deadline=0.002), Waiting(1)]  # late by 1 ms and by 8 ms
    assert policy.next_batch(queue, 0.0)[:2] == (1, 0)
    assert policy.next_batch(queue[1:], 0.0)[:2] == (1, 1)


def test_a_late_request_does_not_wait_for_others() -> None:
    policy = DeadlineBatching(linear(), DeadlineConfig(most_wait=1.0))
    assert policy.next_batch([Waiting(10, deadline=1.0)], 0.0).wait_until is not None
    assert policy.next_batch([Waiting(10, deadline=0.001), Waiting(10, deadline=1.0)], 0.0).take == 2


def test_waiting_ends_when_the_deadline_needs_it() -> None:
    made = linear(fixed=0.01, per_row=0.0)
    policy = DeadlineBatching(made, DeadlineConfig(most_wait=1.0, margin=0.0, reserve_seconds=0.002))
    decision = policy.next_batch([Waiting(10, arrived=0.0, deadline=0.1)], 0.0)
    assert decision.take == 0
    assert decision.wait_until is not None
    assert decision.wait_until == pytest.approx(0.1 - 0.01 - 0.002)
    assert policy.next_batch([Waiting(10, arrived=0.0, deadline=0.1)], decision.wait_until).take == 1


def test_waiting_ends_with_a_full_batch() -> None:
    policy = DeadlineBatching(linear(), DeadlineConfig(most_wait=1.0, most_rows=32))
    assert policy.next_batch([Waiting(16)], 0.0).wait_until == 1.0
    full = policy.next_batch([Waiting(16), Waiting(16), Waiting(16)], 0.0)
    assert (full.take, full.rows, full.full) == (2, 32, True)


def test_a_slow_machine_takes_smaller_batches() -> None:
    policy = DeadlineBatching(linear(), DeadlineConfig())
    queue = [Waiting(100, deadline=0.01) for _ in range(9)]
    before = policy.next_batch(queue, 0.0)
    for _ in range(60):
        policy.finished(before, before.predicted * 2.0)
    after = policy.next_batch(queue, 0.0)
    assert 0 < after.take < before.take
    assert policy.correction.factor == pytest.approx(2.0, rel=0.01)


@given(st.floats(1e-5, 1e-3), st.floats(1e-6, 1e-4), st.floats(0.002, 0.1), st.integers(1, 32), st.floats(0.5, 0.95))
def test_aimd_converges_below_the_largest_batch_within_the_target(
    fixed: float, per_row: float, target: float, add: int, back_off: float
) -> None:
    config = AimdConfig(target, add_rows=add, back_off=back_off, most_rows=100_000)
    policy = AimdBatching(config)
    queue = [Waiting(1) for _ in range(200)]
    largest = min((target - fixed) / per_row, 200.0)
    seen = []
    for _ in range(200 // add + 60):
        decision = policy.next_batch(queue, 0.0)
        policy.finished(decision, fixed + per_row * decision.rows)
        seen.append(policy.limit)
    for limit in seen[-20:]:
        assert largest * back_off - add - 1 <= limit <= largest + 2 * add + 1


def test_aimd_does_not_grow_from_batches_that_the_queue_ended() -> None:
    policy = AimdBatching(AimdConfig(1.0, least_rows=8))
    decision = policy.next_batch([Waiting(1)], 0.0)
    policy.finished(decision, 1e-3)
    assert policy.limit == 8.0


def test_aimd_ignores_one_request_above_the_limit() -> None:
    policy = AimdBatching(AimdConfig(0.01, least_rows=8))
    policy.limit = 100.0
    decision = policy.next_batch([Waiting(700), Waiting(5)], 0.0)
    assert decision.take == 1
    policy.finished(decision, 5.0)
    assert policy.limit == 100.0
    policy.finished(BatchDecision(2, rows=100), 5.0)
    assert policy.limit == 90.0
    policy.finished(BatchDecision(2, rows=10), 5.0)
    assert policy.limit == 81.0


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.0, 1.0), st.booleans())))
def test_the_limit_of_aimd_stays_within_its_bounds(batches: list[tuple[int, float, bool]]) -> None:
    policy = AimdBatching(AimdConfig(0.1, least_rows=4, most_rows=64, add_rows=32))
    for rows, taken, full in batches:
        policy.finished(BatchDecision(1, rows=rows, full=full), taken)
        assert 4.0 <= policy.limit <= 64.0


@given(st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_a_later_deadline_never_makes_a_batch_smaller(first: float, second: float) -> None:
    low, high = sorted((first, second))
    policy = DeadlineBatching(linear())
    taken = [
        policy.next_batch([Waiting(64, deadline=deadline) for _ in range(20)], 0.0).take for deadline in (low, high)
    ]
    assert taken[0] <= taken[1]


def test_requests_without_a_deadline_fill_the_batch() -> None:
    policy = DeadlineBatching(linear(), DeadlineConfig(most_rows=512))
    assert policy.next_batch([Waiting(100, deadline=math.inf) for _ in range(9)], 0.0).take == 5


@pytest.mark.parametrize(("idle", "dropped"), [(1, 1), (2, 0)])
def test_a_request_that_idle_cores_can_answer_in_time_is_not_dropped(idle: int, dropped: int) -> None:
    made = linear(fixed=0.0, per_row=1e-5)
    split = CandidateSplit(made, SplitConfig(2, part_seconds=0.0))
    policy = DeadlineBatching(made, DeadlineConfig(grace=0.0), split)
    decision = policy.next_batch([Waiting(1000, deadline=0.006)], 0.0, idle)
    assert (decision.drop, decision.take) == (dropped, 1 - dropped)


@pytest.mark.parametrize(("idle", "kept"), [(1, math.inf), (2, 0.006)])
def test_a_deadline_that_idle_cores_can_keep_is_not_lost(idle: int, kept: float) -> None:
    made = linear(fixed=0.0, per_row=1e-5)
    policy = DeadlineBatching(made, split=CandidateSplit(made, SplitConfig(2, part_seconds=0.0)))
    assert policy.next_batch([Waiting(1000, deadline=0.006)], 0.0, idle).deadline == kept
