"""Stations and replicas: cores, queues, variants, second devices."""

from __future__ import annotations

import pytest
from simulator_kit import LADDER, TIMES, scenario

from recfx.serve.policies import AimdConfig, DeadlineBatching, SplitConfig
from recfx.serve.simulator import Machines, Policies, Scenario
from recfx.serve.simulator.fleet import Replica, Request


def filled(made: Scenario, rows: list[int], machines: Machines | None = None) -> Replica:
    replica = Replica(0, made, machines or made.machines[0])
    for number, count in enumerate(rows):
        request = Request(number, count, 0.0, 1.0, 0)
        request.replica = replica
        station = replica.station_for(count)
        station.queue.append(request)
        station.waiting_rows += count
    return replica


def test_a_batch_takes_requests_from_the_queue_and_a_core() -> None:
    station = filled(scenario(cores=2), [100, 50, 30]).station
    decision = station.batching.next_batch(station.queue, 0.0)._replace(take=2, rows=150)
    batch = station.begin(decision, 0.0)
    assert [request.rows for request in batch.requests] == [100, 50]
    assert (station.free, len(station.queue), station.waiting_rows) == (1, 1, 30)
    station.finished(batch, 0.01)
    assert station.free == 2
    assert not station.running


def test_a_split_batch_takes_several_cores() -> None:
    made = scenario(cores=4, policies=Policies(splitting=SplitConfig(16, part_seconds=0.0, most_extra=1.0)))
    station = filled(made, [512]).station
    batch = station.begin(station.batching.next_batch(station.queue, 0.0), 0.0)
    assert (batch.cores, station.free) == (4, 0)
    assert batch.decision.predicted == TIMES.seconds(128)


def test_the_last_free_core_takes_a_whole_batch() -> None:
    made = scenario(cores=2, policies=Policies(splitting=SplitConfig(16, request_seconds=0.5, part_seconds=0.0)))
    station = filled(made, [512]).station
    station.free = 1
    batch = station.begin(station.batching.next_batch(station.queue, 0.0)._replace(predicted=0.25), 0.0)
    assert (batch.cores, station.free, batch.decision.predicted) == (1, 0, 0.25)


def test_measured_times_correct_predictions_of_admission() -> None:
    station = filled(scenario(), [100] * 50).station
    while station.queue:
        decision = station.batching.next_batch(station.queue, 0.0)._replace(
            take=1, rows=100, predicted=TIMES.seconds(100)
        )
        station.finished(station.begin(decision, 0.0), 2.0 * TIMES.seconds(100))
    assert station.admission is not None
    assert station.admission.correction.factor == pytest.approx(2.0, rel=0.02)
    assert isinstance(station.batching, DeadlineBatching)
    assert station.batching.correction.factor == pytest.approx(2.0, rel=0.02)


def test_a_variant_changes_the_times_of_all_policies() -> None:
    made = scenario(variants=LADDER, cores=2, policies=Policies(splitting=SplitConfig(2)))
    station = Replica(0, made, made.machines[0]).station
    station.use(1)
    times = LADDER[1].times
    assert station.times is times
    assert station.admission is not None
    assert station.split is not None
    assert isinstance(station.batching, DeadlineBatching)
    assert station.admission.times is station.split.times is station.batching.times is times


def test_aimd_and_no_batching() -> None:
    aimd = filled(scenario(policies=Policies(batching=AimdConfig(0.1, least_rows=64))), [30, 30, 30]).station
    assert aimd.batching.next_batch(aimd.queue, 0.0).take == 2
    alone = filled(scenario(policies=Policies(batching=None)), [30, 30]).station
    assert alone.batching.next_batch(alone.queue, 0.0).take == 1


def test_large_requests_belong_to_the_second_device() -> None:
    replica = filled(scenario(), [100, 300, 400], Machines(1, 2, device=TIMES, offload_rows=256))
    assert replica.device is not None
    assert [station.waiting_rows for station in replica.stations()] == [100, 700]
    assert (replica.waiting, replica.waiting_rows) == (3, 800)
    assert replica.device.cores == 1
    assert filled(scenario(), [400]).stations() == [filled(scenario(), []).station] or replica.station.cores == 2


def test_a_dead_station_holds_nothing() -> None:
    station = filled(scenario(), [100, 50, 30]).station
    decision = station.batching.next_batch(station.queue, 0.0)._replace(take=2, rows=150)
    batch = station.begin(decision, 0.0)
    station.ends.append(0.5)
    assert [request.number for request in station.lose_all()] == [0, 1, 2]
    assert (station.free, station.waiting_rows, station.ends) == (1, 0, [])
    assert batch not in station.running


def test_a_replica_that_is_slow_counts_as_fewer_cores() -> None:
    replica = filled(scenario(cores=4), [])
    assert replica.effective_cores == 4.0
    for _ in range(100):
        replica.station.correction.observe(1.0, 2.0)
    assert replica.effective_cores == pytest.approx(2.0, rel=0.01)
    replica.leaving = True
    assert not replica.active
