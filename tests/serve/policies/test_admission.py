"""Admission: what fits is admitted, what cannot be answered in time is not; more load never admits more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_kit import linear, times

from recfx.serve.policies import Admission, AdmissionConfig, CandidateSplit, ServiceTimes, SplitConfig

rows = st.integers(1, 2000)
queued = st.integers(0, 100_000)


@given(times, rows, st.floats(0.0, 10.0))
def test_an_idle_replica_admits_what_it_can_answer_in_time(made: ServiceTimes, count: int, budget: float) -> None:
    admission = Admission(made, 2, AdmissionConfig(margin=0.0))
    verdict = admission.decide(count, budget, 0, 0, -1.0, 0.0)
    assert verdict.admitted == (verdict.seconds <= budget)
    assert verdict.seconds >= made.seconds(count)
    assert verdict.reason == ("" if verdict.admitted else "deadline")


@given(times, rows, queued, queued, st.floats(0.0, 1.0), st.floats(0.0, 5.0))
def test_a_queue_longer_by_a_batch_never_answers_earlier(
    made: ServiceTimes, count: int, queue: int, more: int, free: float, budget: float
) -> None:
    admission = Admission(made, 1)
    size = max(made.most_rows(budget / 2.0, 4096), count)
    short, long = (admission.predicted(count, budget, waiting, free) for waiting in (queue, queue + size + more))
    assert short <= long * (1 + 1e-9)


@given(rows, queued, queued, st.floats(0.0, 1.0), st.floats(0.0, 5.0))
def test_a_longer_queue_never_admits_more(count: int, first: int, second: int, free: float, budget: float) -> None:
    admission = Admission(linear(), 4)
    low, high = sorted((first, second))
    short, long = (admission.decide(count, budget, 1, queue, free, 0.0) for queue in (low, high))
    assert short.admitted >= long.admitted or high - low < 4096


@given(times, rows, queued, st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_a_later_deadline_never_rejects_more(
    made: ServiceTimes, count: int, queue: int, first: float, second: float
) -> None:
    admission = Admission(made)
    early, late = (admission.decide(count, deadline, 1, queue, 0.0, 0.0) for deadline in sorted((first, second)))
    assert early.admitted <= late.admitted


@given(times, rows, queued)
def test_without_a_deadline_only_a_full_queue_rejects(made: ServiceTimes, count: int, queue: int) -> None:
    admission = Admission(made, 1, AdmissionConfig(most_waiting=10))
    assert admission.decide(count, math.inf, 9, queue, 5.0, 0.0).admitted
    assert admission.decide(count, math.inf, 10, queue, 5.0, 0.0) == (False, "queue", 0.0)


def test_a_slow_machine_admits_less() -> None:
    admission = Admission(linear(fixed=0.01, per_row=0.0))
    assert admission.decide(10, 0.015, 0, 0, 0.0, 0.0).admitted
    for _ in range(50):
        admission.correction.observe(0.01, 0.02)
    assert not admission.decide(10, 0.015, 0, 0, 0.0, 0.0).admitted


def test_the_reserve_and_the_running_batch_count() -> None:
    made = linear(fixed=0.01, per_row=0.0)
    admission = Admission(made, 1, AdmissionConfig(margin=0.0, reserve_seconds=0.003))
    assert admission.decide(1, 1.0, 0, 0, 0.004, 0.0).seconds == pytest.approx(0.014)
    assert not admission.decide(1, 0.0165, 0, 0, 0.004, 0.0).admitted
    assert admission.decide(1, 0.0175, 0, 0, 0.004, 0.0).admitted


def test_the_cores_share_the_queue() -> None:
    made = linear(fixed=0.0, per_row=1e-5)
    one, four = (Admission(made, cores).predicted(100, 0.02, 100_000, 0.0) for cores in (1, 4))
    assert one == pytest.approx(100 * 0.01 + 0.001)  # 100 batches of 1,000 rows, and one of 100
    assert four == pytest.approx(25 * 0.01 + 0.001)


@pytest.mark.parametrize(("waiting", "idle", "admitted"), [(0, 1, False), (0, 2, True), (1, 2, False)])
def test_idle_cores_admit_what_one_core_cannot_answer_in_time(waiting: int, idle: int, admitted: bool) -> None:
    made = linear(fixed=0.0, per_row=1e-5)
    split = CandidateSplit(made, SplitConfig(2, part_seconds=0.0))
    admission = Admission(made, 2, AdmissionConfig(margin=0.0), split)
    verdict = admission.decide(1000, 0.006, waiting, 0, 0.0, 0.0, idle)
    assert verdict.admitted is admitted
    assert verdict.seconds == pytest.approx(0.005 if admitted else 0.01)
