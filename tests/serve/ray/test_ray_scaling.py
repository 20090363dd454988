"""Scaling on Ray by what replicas report, in a loop of reports and decisions; Ray itself is not needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from recfx.serve.ray.scaling import ScalingPolicy


def context(replicas: int, reported: Any) -> Any:
    return SimpleNamespace(target_num_replicas=replicas, aggregated_metrics=reported)


def reports(use: float, waiting: float, replicas: int) -> dict[str, dict[str, float]]:
    """A load, in capacities of a replica, that is spread evenly."""
    names = [f"r{number}" for number in range(replicas)]
    return {
        "use": dict.fromkeys(names, use / replicas),
        "waiting_seconds": dict.fromkeys(names, waiting / replicas),
    }


@pytest.mark.parametrize(("use", "wanted"), [(0.0, 1), (0.9, 1), (1.5, 2), (5.0, 6), (100.0, 8)])
def test_replicas_follow_the_load(use: float, wanted: int) -> None:
    policy, replicas = ScalingPolicy(least=1, most=8, patience=2), 1
    for _ in range(40):
        replicas, state = policy(context(replicas, reports(use, 0.0, replicas)))
        assert state == {}
    assert replicas == wanted
    for _ in range(40):
        replicas, _ = policy(context(replicas, reports(0.1, 0.0, replicas)))
    assert replicas == 1


def test_waiting_rows_count_and_nothing_reported_keeps_the_replicas() -> None:
    policy = ScalingPolicy(least=1, most=8)
    assert policy(context(2, reports(1.0, 20.0, 2)))[0] > 2
    policy = ScalingPolicy(least=2, most=8)
    for reported in (None, {}, {"use": {}}):
        assert policy(context(2, reported))[0] == 2
