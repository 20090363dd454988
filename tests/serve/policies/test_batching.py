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


def policies(made: ServiceTimes, wait: float = 0.0) -> list[Batching]:
    aimd = AimdBatching(AimdConfig(0.01, most_wait=wait, most_rows=512))
    return [aimd, DeadlineBatching(made, DeadlineConfig(most_wait=wait, most_rows=512))]


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
        rounds = 0
        while queue:
            decision = policy.next_batch(queue, now)
            if decision.wait_until is not None:
                assert now < decision.wait_until <= min(request.arrived for request in queue[decision.drop :]) + wait
                now = decision.wait_until
            queue = queue[decision.drop + decision.take :]
            rounds += 1
            assert rounds <= 40
        assert policy.next_batch(queue, now) == BatchDecision(0)


@given(times, queues, st.floats(0.0, 30.0))
def test_a_dropped_request_was_too_late_alone(made: ServiceTimes, queue: list[Waiting], now: float) -> None:
    policy = DeadlineBatching(made, DeadlineConfig(reserve_seconds=0.001))
    decision = policy.next_batch(queue, now)
    for request in queue[: decision.drop]:
        assert now + 0.001 + made.seconds(request.rows) > request.deadline
    if decision.take:
        first = queue[decision.drop]
        assert now + 0.001 + made.seconds(first.rows) <= first.deadline + 1e-6


@given(times, queues, st.floats(0.0, 30.0), st.floats(0.0, 0.5))
def test_a_batch_keeps_its_earliest_deadline(
    made: ServiceTimes, queue: list[Waiting], now: float, margin: float
) -> None:
    policy = DeadlineBatching(made, DeadlineConfig(margin=margin))
    decision = policy.next_batch(queue, now)
    batch = queue[decision.drop : decision.drop + decision.take]
    if decision.take > 1:
        end = now + made.seconds(decision.rows) * (1.0 + margin)
        assert end <= min(request.deadline for request in batch) + 1e-9
    if decision.take and decision.drop + decision.take < len(queue):
        after = queue[decision.drop + decision.take]
        larger = made.seconds(decision.rows + after.rows) * (1.0 + margin)
        earliest = min(request.deadline for request in [*batch, after])
        assert now + larger > earliest - 1e-9 or decision.rows + after.rows > policy.config.most_rows


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
    policy = DeadlineBatching(made, split=CandidateSplit(made, SplitConfig(2, part_seconds=0.0)))
    decision = policy.next_batch([Waiting(1000, deadline=0.006)], 0.0, idle)
    assert (decision.drop, decision.take) == (dropped, 1 - dropped)
