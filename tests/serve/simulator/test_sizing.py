"""Searches for the largest load, the smallest fleet, and the best batch."""

from __future__ import annotations

import dataclasses

import pytest
from simulator_kit import TIMES, scenario

from recfx.errors import InputError
from recfx.serve.policies import DeadlineConfig, ServiceTimes, Trial
from recfx.serve.simulator import (
    Fault,
    Machines,
    Poisson,
    Policies,
    Scenario,
    applied,
    fewest_replicas,
    largest_rate,
    simulate,
    tuned,
)


def slow(**changes: object) -> Scenario:
    """One replica whose core takes 20 ms for an average request, so that searches need few requests."""
    return scenario(
        50.0, 1, **({"machines": (Machines(1, slowdown=14.0),), "sla_seconds": 0.2, "seconds": 8.0} | changes)
    )


def test_the_largest_rate_keeps_the_limit_and_a_larger_one_does_not() -> None:
    made = slow()
    steps: list[str] = []
    found = largest_rate(made, step=steps.append)
    assert found.report is not None
    assert found.report.tail(99.0) <= 0.2
    assert found.value > 10.0
    larger = dataclasses.replace(made, arrivals=Poisson(1.3 * found.value))
    assert simulate(larger).tail(99.0) > 0.2
    assert all("requests/s: p99" in step for step in steps)


def test_two_replicas_take_about_twice_the_load() -> None:
    one = largest_rate(slow()).value
    two = largest_rate(slow(machines=(Machines(2, slowdown=14.0),))).value
    assert 1.7 < two / one < 2.6


def test_no_rate_keeps_an_sla_below_the_time_of_a_request() -> None:
    found = largest_rate(slow(sla_seconds=0.005))
    assert found.value == 0.0
    assert found.report is None


def test_the_smallest_fleet() -> None:
    made = slow(arrivals=Poisson(300.0), seconds=4.0)
    steps: list[str] = []
    found = fewest_replicas(made, step=steps.append)
    assert found.report is not None
    assert found.report.tail(99.0) <= 0.2
    fewer = dataclasses.replace(made, machines=(Machines(int(found.value) - 1, slowdown=14.0),))
    assert simulate(fewer).tail(99.0) > 0.2
    assert len(steps) <= 8


def test_one_replica_is_enough_for_little() -> None:
    assert fewest_replicas(slow(arrivals=Poisson(1.0))).value == 1.0


def test_a_fleet_has_the_replicas_that_faults_name() -> None:
    assert (
        fewest_replicas(slow(arrivals=Poisson(1.0), machines=(Machines(4),), faults=(Fault(2, slowdown=2.0),))).value
        == 3.0
    )


def test_no_fleet_keeps_an_sla_below_the_time_of_a_request() -> None:
    with pytest.raises(InputError, match="8 replicas do not keep p99 within 5 ms"):
        fewest_replicas(slow(sla_seconds=0.005, seconds=1.0), most=8)


def test_a_setting_of_a_replica() -> None:
    made = scenario(machines=(Machines(2), Machines(1, device=TIMES)), policies=Policies(batching=None))
    changed = applied(made, Trial(64))
    assert changed.policies.batching == DeadlineConfig(most_rows=64)
    assert [machines.offload_rows for machines in changed.machines] == [256, 1 << 30]
    assert [machines.offload_rows for machines in applied(made, Trial(64, 96)).machines] == [256, 96]


def test_the_climb_offloads_to_a_device_that_is_quicker() -> None:
    device = ServiceTimes({1: 0.002, 1024: 0.004})
    made = slow(machines=(Machines(1, slowdown=14.0, device=device),), seconds=2.0)
    steps: list[str] = []
    trial, rate = tuned(made, (256, 128), (160,), step=steps.append)
    assert trial.offload_rows == 160
    assert rate > largest_rate(applied(made, Trial(trial.batch_rows)), 95.0).value
    assert len(steps) == 3
