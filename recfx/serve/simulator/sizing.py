"""Sizing by simulation: the largest load of a fleet, the smallest fleet for a load, and DeepRecSys' batch size and offload threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from recfx.errors import InputError
from recfx.serve.policies import DeadlineConfig, DeepRecSysClimb, RateSearch, RateSearchConfig, Trial
from recfx.serve.simulator.report import Report
from recfx.serve.simulator.scenario import Machines, Scenario
from recfx.serve.simulator.simulation import simulate

#: Rows above every request: nothing is offloaded.
_NEVER = 1 << 30
Step = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        value: Requests per second, or replicas.
        report: The simulation of that value; None if no value kept the limit.
    """

    value: float
    report: Report | None


def largest_rate(scenario: Scenario, percentile: float = 99.0, step: Step | None = None) -> Found:
    """The largest mean rate at which a percentile of the latency stays within the SLA.

    A request without an answer counts as infinitely late, so that rejecting does not raise the rate.

    Args:
        scenario: The fleet and the shape of the load; its rate is varied.
        percentile: The percentile, such as 99.
        step: Called with a description of each trial.
    """
    mean = scenario.arrivals.mean_rate(scenario.seconds)
    machines = scenario.machines
    rows = sum(m.count * scenario.rows_per_second(scenario.variants[-1], m.cores) / m.slowdown for m in machines)
    first = 0.5 * rows / scenario.sizes.average
    search = RateSearch(RateSearchConfig(scenario.sla_seconds, first_rate=first, factor=1.5, precision=0.02))
    best = Found(0.0, None)
    while (rate := search.ask()) is not None:
        report = simulate(dataclasses.replace(scenario, arrivals=scenario.arrivals.scaled(rate / mean)))
        tail = report.tail(percentile)
        search.tell(tail)
        if step is not None:
            step(f"{rate:,.1f} requests/s: p{percentile:g} {tail * 1e3:,.2f} ms")
        if tail <= scenario.sla_seconds and rate > best.value:
            best = Found(rate, report)
    return best


def fewest_replicas(
    scenario: Scenario, percentile: float = 99.0, most: int = 10_000, step: Step | None = None
) -> Found:
    """The smallest number of replicas of the first kind at which a percentile of the latency stays within the SLA.

    Args:
        scenario: The load; the count of its first kind of machines is varied, others stay.
        percentile: The percentile, such as 99. A request without an answer counts as infinitely late.
        most: Replicas at most.
        step: Called with a description of each trial.

    Raises:
        InputError: Even `most` replicas do not keep the SLA.
    """

    def trial(count: int) -> Report:
        first = dataclasses.replace(scenario.machines[0], count=count)
        report = simulate(dataclasses.replace(scenario, machines=(first, *scenario.machines[1:])))
        if step is not None:
            step(f"{count:,} replicas: p{percentile:g} {report.tail(percentile) * 1e3:,.2f} ms")
        return report

    def keeps(report: Report) -> bool:
        return report.tail(percentile) <= scenario.sla_seconds

    others = sum(machines.count for machines in scenario.machines[1:])
    low = (
        max((fault.replica + 1 for fault in scenario.faults), default=1) - others - 1
    )  # known, or taken, to be too few
    low, high = max(low, 0), max(low + 1, 1)
    report = trial(high)
    while not keeps(report):
        if high >= most:
            raise InputError(
                f"{most:,} replicas do not keep p{percentile:g} within {scenario.sla_seconds * 1e3:g} ms",
                hint="pass a larger sla_seconds, a quicker variant, or fewer candidates in a request",
            )
        low, high = high, min(2 * high, most)
        report = trial(high)
    while high - low > 1:
        middle = (low + high) // 2
        tried = trial(middle)
        if keeps(tried):
            high, report = middle, tried
        else:
            low = middle
    return Found(float(high), report)


def tuned(
    scenario: Scenario,
    batch_rows: Sequence[int] = (1024, 512, 256, 128, 64, 32),
    offload_rows: Sequence[int] = (512, 256, 128, 96),
    percentile: float = 95.0,
    step: Step | None = None,
) -> tuple[Trial, float]:
    """DeepRecSys' hill climb: the rows of a batch, and the size from which requests go to the second device.

    Args:
        scenario: The fleet and the shape of the load.
        batch_rows: Rows of a batch, in the order in which they are tried.
        offload_rows: Thresholds, which are tried if a kind of machines has a second device.
        percentile: The percentile that must stay within the SLA; DeepRecSys takes 95.
        step: Called with a description of each trial.

    Returns:
        The best setting and its largest rate in requests per second.
    """
    devices = any(machines.device is not None for machines in scenario.machines)
    climb = DeepRecSysClimb(batch_rows, offload_rows if devices else ())
    while (trial := climb.ask()) is not None:
        found = largest_rate(applied(scenario, trial), percentile)
        climb.tell(found.value)
        if step is not None:
            step(f"{trial.batch_rows} rows, offload above {trial.offload_rows}: {found.value:,.1f} requests/s")
    best = climb.best
    assert best is not None  # the climb has at least one trial
    return best


def applied(scenario: Scenario, trial: Trial) -> Scenario:
    """The scenario with the setting of a trial."""
    batching = scenario.policies.batching or DeadlineConfig()
    policies = dataclasses.replace(
        scenario.policies, batching=dataclasses.replace(batching, most_rows=trial.batch_rows)
    )
    threshold = _NEVER if trial.offload_rows is None else trial.offload_rows

    def offloading(machines: Machines) -> Machines:
        return machines if machines.device is None else dataclasses.replace(machines, offload_rows=threshold)

    return dataclasses.replace(
        scenario, policies=policies, machines=tuple(offloading(machines) for machines in scenario.machines)
    )
