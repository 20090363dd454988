"""Simulated replicas: queues, cores, and the policies that each replica runs."""

from __future__ import annotations

import dataclasses
from collections import deque

from recfx.serve.policies import (
    Admission,
    AimdBatching,
    AimdConfig,
    BatchDecision,
    Batching,
    BusyMeter,
    CandidateSplit,
    DeadlineBatching,
    DeadlineConfig,
    ReplicaLoad,
    ServiceTimes,
    TimeCorrection,
)
from recfx.serve.simulator.scenario import Machines, Scenario


class Request:
    """A request on its way.

    Attributes:
        number: Its place in the records.
        rows: Its candidates.
        sent: When its client sent it.
        deadline: When its computation must have ended.
        arrived: When it arrived at its replica.
        balancer: The number of its balancer.
        replica: Its replica.
        at_arrival: Requests in flight there when it arrived.
        tries: Times that it was sent.
    """

    __slots__ = ("arrived", "at_arrival", "balancer", "deadline", "number", "replica", "rows", "sent", "tries")

    replica: Replica

    def __init__(self, number: int, rows: int, sent: float, deadline: float, balancer: int) -> None:
        self.number, self.rows, self.sent, self.deadline, self.balancer = number, rows, sent, deadline, balancer
        self.arrived, self.at_arrival, self.tries = sent, 0, 0


class Batch:
    """A batch that is computed.

    Attributes:
        station: Where.
        requests: Its requests.
        decision: The decision of the batching policy, with the predicted time of this batch.
        cores: Cores that it occupies.
        begin: When it began.
        variant: The number of the variant.
    """

    __slots__ = ("begin", "cores", "decision", "requests", "station", "variant")

    def __init__(
        self, station: Station, requests: list[Request], decision: BatchDecision, cores: int, begin: float
    ) -> None:
        self.station, self.requests, self.decision, self.cores, self.begin = station, requests, decision, cores, begin
        self.variant = station.variant


class Station:
    """Cores of a replica, or its second device, with one queue.

    Attributes:
        replica: Its replica.
        queue: Waiting requests, the earliest deadline first, since all requests have the same time budget.
        waiting_rows: Rows in the queue.
        cores: Cores.
        free: Idle ones.
        slowdown: Its times as a multiple of the measured ones.
        ends: When running batches end, as a heap.
        running: Batches that are computed.
        variant: The number of the present variant.
        busy: The share of the cores in use lately.
        timer: When the batching policy asked to be asked again; None if it did not.
    """

    def __init__(
        self, replica: Replica, scenario: Scenario, cores: int, times: tuple[ServiceTimes, ...], slowdown: float = 1.0
    ) -> None:
        self.replica, self.cores, self.free, self.slowdown = replica, cores, cores, slowdown
        self.queue: deque[Request] = deque()
        self.waiting_rows = 0
        self.ends: list[float] = []
        self.running: set[Batch] = set()
        self.variant = 0
        self.busy = BusyMeter(cores)
        self.timer: float | None = None
        self._times = times
        self.correction = TimeCorrection()
        policies = scenario.policies
        self.batching = _batching(policies.batching, times[0])
        self.admission: Admission | None = None
        if policies.admission is not None:
            self.admission = Admission(times[0], cores, policies.admission)
            self.admission.correction = self.correction
        self.split: CandidateSplit | None = None
        if policies.splitting is not None and cores > 1:
            limit = min(policies.splitting.cores, cores)
            self.split = CandidateSplit(times[0], dataclasses.replace(policies.splitting, cores=limit))
            for policy in (self.batching, self.admission):
                if isinstance(policy, DeadlineBatching | Admission):
                    policy.split = self.split

    @property
    def times(self) -> ServiceTimes:
        """The times of the present variant."""
        return self._times[self.variant]

    def use(self, variant: int) -> None:
        """Computes the next batches with a variant."""
        self.variant = variant
        for policy in (self.batching, self.admission, self.split):
            if isinstance(policy, DeadlineBatching | Admission | CandidateSplit):
                policy.times = self.times

    def begin(self, decision: BatchDecision, now: float) -> Batch:
        """Takes a batch from the queue and occupies cores; `decision.predicted` of the batch is its time by the profile."""
        requests = [self.queue.popleft() for _ in range(decision.take)]
        self.waiting_rows -= decision.rows
        cores, predicted = 1, decision.predicted or self.times.seconds(decision.rows)
        if self.split is not None and self.free > 1:
            plan = self.split.plan(
                decision.rows,
                self.free,
                self.busy.share(now),
                waiting=len(self.queue),
                budget=(decision.deadline - now) / self.correction.factor,
            )
            cores, predicted = len(plan.parts), plan.seconds
        self.free -= cores
        self.busy.changed(self.cores - self.free, now)
        batch = Batch(self, requests, decision._replace(predicted=predicted), cores, now)
        self.running.add(batch)
        return batch

    def finished(self, batch: Batch, seconds: float) -> None:
        """Frees the cores of a batch, and tells the policies its time."""
        self.free += batch.cores
        self.busy.changed(self.cores - self.free, batch.begin + seconds)
        self.running.remove(batch)
        self.batching.finished(batch.decision, seconds)
        self.correction.observe(batch.decision.predicted, seconds)

    def lose_all(self) -> list[Request]:
        """Empties the station, and returns the requests that it held."""
        lost = [request for batch in self.running for request in batch.requests]
        lost += self.queue
        self.queue.clear()
        self.running.clear()
        self.ends.clear()
        self.waiting_rows, self.free, self.timer = 0, self.cores, None
        return sorted(lost, key=lambda request: request.number)


def _batching(config: DeadlineConfig | AimdConfig | None, times: ServiceTimes) -> Batching:
    if isinstance(config, DeadlineConfig):
        return DeadlineBatching(times, config)
    return AimdBatching(
        config or AimdConfig(1.0, least_rows=1, most_rows=1)
    )  # with 1 row, each request is a batch of its own


class Replica:
    """A replica.

    Attributes:
        number: Its number.
        alive: Whether it answers.
        leaving: Whether scaling has removed it.
        excluded: Whether the balancers know that it is dead.
        slowdown: The factor of present faults.
        load: What it answers to probes.
        station: Its cores.
        device: Its second device; None without one.
    """

    def __init__(self, number: int, scenario: Scenario, machines: Machines) -> None:
        self.number, self.machines = number, machines
        self.alive, self.leaving, self.excluded = True, False, False
        self.slowdown = 1.0
        self.load = ReplicaLoad()
        times = tuple(variant.times for variant in scenario.variants)
        self.station = Station(self, scenario, machines.cores, times, machines.slowdown)
        self.device: Station | None = None
        if machines.device is not None:
            self.device = Station(self, scenario, 1, (machines.device,))
        self.offload_rows = machines.offload_rows

    def station_for(self, rows: int) -> Station:
        """Where a request of some rows is computed."""
        device = self.device
        return device if device is not None and rows > self.offload_rows else self.station

    def stations(self) -> list[Station]:
        """The cores, and the second device."""
        return [self.station] if self.device is None else [self.station, self.device]

    @property
    def active(self) -> bool:
        """Whether it takes requests."""
        return self.alive and not self.leaving

    @property
    def waiting(self) -> int:
        """Requests in its queues."""
        return sum(len(station.queue) for station in self.stations())

    @property
    def waiting_rows(self) -> int:
        """Rows in its queues."""
        return sum(station.waiting_rows for station in self.stations())

    @property
    def effective_cores(self) -> float:
        """Its cores; with calls that take twice the predicted time, half of them."""
        return self.machines.cores / self.station.correction.factor
