"""Splits hold every row once, never end later than one part, and cost no more than the load allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_kit import linear, times

from recfx.serve.policies import CandidateSplit, ServiceTimes, SplitConfig

configs = st.builds(
    SplitConfig,
    cores=st.integers(1, 16),
    request_seconds=st.floats(0.0, 0.01),
    part_seconds=st.floats(0.0, 1e-3),
    least_rows=st.integers(1, 64),
    most_extra=st.floats(0.0, 2.0),
)


@given(times, configs, st.integers(1, 3000), st.integers(1, 20), st.floats(0.0, 1.0))
def test_a_split(made: ServiceTimes, config: SplitConfig, rows: int, idle: int, busy: float) -> None:
    split = CandidateSplit(made, config)
    plan = split.plan(rows, idle, busy)
    assert sum(plan.parts) == rows
    assert max(plan.parts) - min(plan.parts) <= 1
    assert len(plan.parts) <= min(config.cores, idle)
    assert len(plan.parts) == 1 or min(plan.parts) >= config.least_rows
    assert plan.seconds <= config.request_seconds + made.seconds(rows)
    allowed = split.work(rows, 1) * (1.0 + config.most_extra * (1.0 - busy))
    assert split.work(rows, len(plan.parts)) <= allowed * (1 + 1e-12)
    assert [end - start for start, end in plan.bounds] == list(plan.parts)
    assert plan.bounds[0][0] == 0
    assert plan.bounds[-1][1] == rows


@given(times, configs, st.integers(1, 3000), st.integers(1, 19))
def test_one_more_idle_core_never_ends_later(made: ServiceTimes, config: SplitConfig, rows: int, idle: int) -> None:
    split = CandidateSplit(made, config)
    assert split.plan(rows, idle + 1).seconds <= split.plan(rows, idle).seconds


def test_the_request_side_counts_once() -> None:
    made = linear(fixed=0.0001, per_row=1e-5)
    alone = CandidateSplit(made, SplitConfig(4, request_seconds=0.01, part_seconds=0.0)).plan(400, 4)
    assert len(alone.parts) == 4
    assert alone.seconds == pytest.approx(0.01 + made.seconds(100))


def test_a_busy_replica_does_not_split_what_costs_more() -> None:
    made = linear(fixed=1e-3, per_row=1e-5)
    split = CandidateSplit(made, SplitConfig(4, part_seconds=0.0))
    assert len(split.plan(700, 4, busy=0.0).parts) > 1
    assert split.plan(700, 4, busy=1.0).parts == (700,)


def test_two_idle_cores_take_two_parts() -> None:
    split = CandidateSplit(linear(), SplitConfig(2, request_seconds=0.001, part_seconds=0.0001))
    plan = split.plan(101, 2)
    assert plan.parts == (51, 50)
    assert plan.bounds == ((0, 51), (51, 101))
    assert plan.seconds == pytest.approx(0.001 + linear().seconds(51) + 0.0001)


@pytest.mark.parametrize(("parts", "hand_offs"), [(1, 0), (2, 1), (3, 2)])
def test_the_work_of_a_split(parts: int, hand_offs: int) -> None:
    split = CandidateSplit(linear(), SplitConfig(4, request_seconds=0.001, part_seconds=0.0001))
    sizes = {1: (100,), 2: (50, 50), 3: (34, 33, 33)}[parts]
    spent = sum(linear().seconds(rows) for rows in sizes)
    assert split.work(100, parts) == pytest.approx(0.001 + spent + 0.0001 * hand_offs)


def test_few_rows_stay_together() -> None:
    assert CandidateSplit(linear(), SplitConfig(8, least_rows=16)).plan(31, 8).parts == (31,)


@given(times, configs, st.integers(1, 3000), st.integers(1, 20), st.floats(0.0, 1.0), st.floats(0.0, 2.0))
def test_a_deadline_is_kept_whatever_the_load_if_a_split_can_keep_it(
    made: ServiceTimes, config: SplitConfig, rows: int, idle: int, busy: float, budget: float
) -> None:
    split = CandidateSplit(made, config)
    plan, without = split.plan(rows, idle, busy, budget=budget), split.plan(rows, idle, busy)
    if without.seconds <= budget:
        assert plan == without
    elif split.quickest(rows, idle) <= budget:
        assert plan.seconds <= budget
        fewer = len(plan.parts) - 1
        assert fewer < 2 or split.plan(rows, fewer, busy, budget=budget).seconds > budget
    else:
        assert plan == without
    assert split.quickest(rows, idle) <= plan.seconds


@given(times, configs, st.integers(1, 3000), st.integers(1, 20), st.integers(0, 25))
def test_requests_that_wait_take_their_cores(
    made: ServiceTimes, config: SplitConfig, rows: int, idle: int, waiting: int
) -> None:
    split = CandidateSplit(made, config)
    assert split.plan(rows, idle, waiting=waiting) == split.plan(rows, max(idle - waiting, 1))
