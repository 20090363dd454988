"""The figures of a simulation: percentiles, throughput, rejections, violations, variants and quality, in total and over time."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any

import numpy as np

from recfx.serve.simulator.records import Outcome, Records
from recfx.serve.simulator.scenario import Scenario
from recfx.serve.simulator.tables import milliseconds, table


@dataclasses.dataclass(frozen=True)
class Interval:
    """Figures of the requests that were sent in one part of the time.

    Attributes:
        begin: Its beginning, in seconds.
        offered: Requests per second.
        answered: Answered ones per second.
        rejected: Rejected, dropped and limited ones per second.
        failed: Ones per second that were lost with their replica.
        p50: Median latency of the answered ones, in seconds; NaN without answers.
        p99: Their 99th percentile.
        late: The share of answers after the deadline.
        quality: The mean quality of the answers.
        variants: The share of answers by variant.
        replicas: Replicas that took requests, on average.
        waiting: Requests in the queues, on average.
    """

    begin: float
    offered: float
    answered: float
    rejected: float
    failed: float
    p50: float
    p99: float
    late: float
    quality: float
    variants: dict[str, float]
    replicas: float
    waiting: float


class Report:
    """The result of a simulation. `print` shows a table.

    The figures leave out requests that were sent in the warm-up.

    Args:
        scenario: What was simulated.
        records: What happened.
    """

    def __init__(self, scenario: Scenario, records: Records) -> None:
        self.scenario, self._records = scenario, records
        sent = records.column("sent")
        self._inside = sent >= scenario.warm_up
        self._sent = sent[self._inside]
        self._seconds, self._outcome, self._variant, self._rows = (
            records.column(name)[self._inside] for name in ("seconds", "outcome", "variant", "rows")
        )
        self._answered = self._outcome == Outcome.ANSWERED
        self._quality = np.asarray([variant.quality for variant in scenario.variants])

    @property
    def requests(self) -> int:
        """Requests that were sent."""
        return len(self._sent)

    def count(self, outcome: Outcome) -> int:
        """Requests that ended in one way."""
        return int((self._outcome == outcome).sum())

    @property
    def rejected(self) -> int:
        """Requests that were rejected, dropped from a queue, or above their tenant's limit."""
        return sum(self.count(outcome) for outcome in (Outcome.REJECTED, Outcome.DROPPED, Outcome.LIMITED))

    @property
    def late(self) -> int:
        """Answers after the deadline."""
        return int((self._seconds[self._answered] > self.scenario.sla_seconds).sum())

    @property
    def violations(self) -> float:
        """The share of requests without an answer in time, those above a tenant's limit not counted."""
        counted = self.requests - self.count(Outcome.LIMITED)
        in_time = int(self._answered.sum()) - self.late
        return 1.0 - in_time / counted if counted else 0.0

    def latency(self, percentile: float) -> float:
        """A percentile of the latencies of answers, in seconds; NaN without answers."""
        return _percentile(self._seconds[self._answered], percentile)

    def tail(self, percentile: float) -> float:
        """The same over all requests; one without an answer takes infinitely long."""
        return _percentile(np.where(self._answered, self._seconds, np.inf), percentile)

    def rejection(self, percentile: float) -> float:
        """A percentile of the time until a rejected request was told so, in seconds; NaN without rejections."""
        rejected = np.isin(self._outcome, (Outcome.REJECTED, Outcome.DROPPED, Outcome.LIMITED))
        return _percentile(self._seconds[rejected], percentile)

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return int(self._answered.sum()) / (self.scenario.seconds - self.scenario.warm_up)

    @property
    def rows_per_second(self) -> float:
        """Rows of answers per second."""
        return int(self._rows[self._answered].sum()) / (self.scenario.seconds - self.scenario.warm_up)

    @property
    def utilisation(self) -> float:
        """Core-seconds of batches over those of the replicas that took requests, warm-up included."""
        cores = float(np.mean([sample.cores for sample in self._records.samples]))
        return self._records.core_seconds / (cores * self.scenario.seconds) if cores else 0.0

    @property
    def variants(self) -> dict[str, float]:
        """The share of answers by variant."""
        return self._shares(self._variant[self._answered])

    @property
    def quality(self) -> float:
        """The mean quality of the answers; NaN without answers."""
        return self._mean_quality(self._variant[self._answered])

    @property
    def quality_given_away(self) -> float:
        """How much less that is than the quality of the first variant."""
        given = self._quality[0] - self._quality[self._variant[self._answered]]
        return float(given.mean()) if len(given) else math.nan

    @property
    def replicas(self) -> tuple[int, int]:
        """The smallest and the largest number of replicas that took requests."""
        counts = [sample.replicas for sample in self._records.samples]
        return min(counts), max(counts)

    @cached_property
    def intervals(self) -> tuple[Interval, ...]:
        """Figures over time, in at most 120 intervals."""
        return self.over_time(120)

    def over_time(self, count: int) -> tuple[Interval, ...]:
        """Figures over time.

        Args:
            count: Intervals; fewer if the load was looked at less often.
        """
        begin, end = self.scenario.warm_up, self.scenario.seconds
        samples = self._records.samples
        count = max(min(count, int((end - begin) / self.scenario.control_seconds)), 1)
        edges = np.linspace(begin, end, count + 1)
        places = np.searchsorted(self._sent, edges)
        sampled = np.searchsorted([sample.time for sample in samples], edges)
        found = []
        for at in range(count):
            held = samples[sampled[at] : max(sampled[at + 1], sampled[at] + 1)] or samples[-1:]
            replicas = float(np.mean([sample.replicas for sample in held]))
            waiting = float(np.mean([sample.waiting for sample in held]))
            part = slice(int(places[at]), int(places[at + 1]))
            found.append(self._interval(part, float(edges[at]), float(edges[at + 1]), replicas, waiting))
        return tuple(found)

    def _interval(self, part: slice, begin: float, end: float, replicas: float, waiting: float) -> Interval:
        outcome, answered = self._outcome[part], self._answered[part]
        seconds, variant = self._seconds[part][answered], self._variant[part][answered]
        failed = int((outcome == Outcome.FAILED).sum())
        length = end - begin
        return Interval(
            begin=begin,
            offered=len(outcome) / length,
            answered=len(seconds) / length,
            rejected=(len(outcome) - len(seconds) - failed) / length,
            failed=failed / length,
            p50=_percentile(seconds, 50.0),
            p99=_percentile(seconds, 99.0),
            late=float((seconds > self.scenario.sla_seconds).mean()) if len(seconds) else 0.0,
            quality=self._mean_quality(variant),
            variants=self._shares(variant),
            replicas=replicas,
            waiting=waiting,
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as values for JSON; a figure that does not exist is null."""
        answered = int(self._answered.sum())
        counts = {outcome.name.lower(): self.count(outcome) for outcome in Outcome if outcome is not Outcome.OPEN}
        summary = {
            "requests": self.requests,
            **counts,
            "late": self.late,
            "violations": self.violations,
            **{f"p{text}_seconds": self.latency(float(text)) for text in ("50", "95", "99", "99.9")},
            "rejection_p99_seconds": self.rejection(99.0),
            "answers_per_second": self.throughput,
            "rows_per_second": self.rows_per_second,
            "utilisation": self.utilisation,
            "variants": self.variants,
            "quality": self.quality if answered else None,
            "quality_given_away": self.quality_given_away if answered else None,
            "replicas": list(self.replicas),
        }
        series = [dataclasses.asdict(interval) for interval in self.intervals]
        found: dict[str, Any] = _without_nan({"summary": summary, "over_time": series})
        return found

    def __str__(self) -> str:
        """The table."""
        sla = self.scenario.sla_seconds
        low, high = self.replicas
        lines = [
            ("requests", f"{self.requests:,}", f"{self.requests / self._length:,.1f} per second"),
            (
                "answered",
                f"{int(self._answered.sum()):,}",
                f"{self.throughput:,.1f} per second, {self.rows_per_second:,.0f} rows",
            ),
            ("rejected", f"{self.rejected:,}", self._rejections()),
            ("failed", f"{self.count(Outcome.FAILED):,}", "lost with a replica that died"),
            ("late", f"{self.late:,}", f"answered after {milliseconds(sla)}"),
            ("violations", f"{self.violations:.3%}", "requests without an answer in time"),
            *((f"p{text}", milliseconds(self.latency(float(text))), "") for text in ("50", "95", "99", "99.9")),
            (
                "cores in use",
                f"{self.utilisation:.1%}",
                f"{low:,} replicas" if low == high else f"{low:,} to {high:,} replicas",
            ),
            *((f"variant {name}", f"{share:.1%}", "of the answers") for name, share in self.variants.items()),
        ]
        if self._quality.any():
            lines.append(("quality", f"{self.quality:.4f}", f"{self.quality_given_away:.5f} given away"))
        return table(("", "", ""), lines)

    def table_over_time(self, count: int = 10) -> str:
        """Figures over time as a table of at most `count` rows."""
        names = [variant.name for variant in self.scenario.variants]
        head = ("second", "offered/s", "answered/s", "rejected/s", "p50", "p99", "late", "waiting", "replicas", *names)
        lines = [
            (
                f"{part.begin:,.1f}",
                *(f"{value:,.1f}" for value in (part.offered, part.answered, part.rejected)),
                *(milliseconds(value) for value in (part.p50, part.p99)),
                f"{part.late:.1%}",
                f"{part.waiting:,.1f}",
                f"{part.replicas:,.0f}",
                *(f"{part.variants[name]:.0%}" for name in names),
            )
            for part in self.over_time(count)
        ]
        return table(head, lines)

    @property
    def _length(self) -> float:
        return self.scenario.seconds - self.scenario.warm_up

    def _rejections(self) -> str:
        if not self.rejected:
            return ""
        parts = [
            f"{self.count(outcome):,} {text}"
            for outcome, text in (
                (Outcome.REJECTED, "at arrival"),
                (Outcome.DROPPED, "from a queue"),
                (Outcome.LIMITED, "above a tenant's limit"),
            )
            if self.count(outcome)
        ]
        return f"{', '.join(parts)}; p99 of the reply {milliseconds(self.rejection(99.0))}"

    def _shares(self, variant: Any) -> dict[str, float]:
        counts = np.bincount(variant, minlength=len(self._quality)) if len(variant) else np.zeros(len(self._quality))
        total = max(len(variant), 1)
        return {v.name: float(n) / total for v, n in zip(self.scenario.variants, counts, strict=True)}

    def _mean_quality(self, variant: Any) -> float:
        return float(self._quality[variant].mean()) if len(variant) else math.nan


def _percentile(values: Any, percentile: float) -> float:
    """By nearest rank, so that infinite values do not spread; NaN without values."""
    if not len(values):
        return math.nan
    return float(np.quantile(values, percentile / 100.0, method="inverted_cdf"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
