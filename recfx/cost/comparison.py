"""The result of an interleaved comparison: timings, and ratios with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from recfx.cost.bootstrap import Ratio, Samples, paired_quantile_ratio, paired_ratio
from recfx.errors import MeasureError

#: The fewest single calls that have a 99th percentile.
P99_SAMPLES = 100


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call of one candidate.

    Attributes:
        median: Median over all samples.
        p99: 99th percentile over all samples; with fewer than 100 samples, close to the largest.
        best: Smallest sample.
        samples: How many samples were taken.
        calls_per_sample: Calls averaged in one sample; 1 when a call is long enough to be timed alone.
    """

    median: float
    p99: float
    best: float
    samples: int
    calls_per_sample: int

    @property
    def has_p99(self) -> bool:
        """Whether `p99` is that of calls: samples are single calls, because means hide slow calls, and there are enough samples."""
        return self.calls_per_sample == 1 and self.samples >= P99_SAMPLES


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Timings of all candidates, and their ratios to the baseline.

    Attributes:
        timings: Name -> timing.
        ratios: Name -> ratio of its median to the baseline's; the baseline's own is 1.
        baseline: The candidate the ratios refer to.
        threads: Threads torch had.
        samples: Name -> seconds [rounds, samples in a round]; not part of the JSON form.
    """

    timings: dict[str, Timing]
    ratios: dict[str, Ratio]
    baseline: str
    threads: int
    samples: dict[str, Samples] = dataclasses.field(repr=False, compare=False, default_factory=dict)

    def slower(self, name: str, than: str) -> bool:
        """Whether a candidate's median is slower than another's beyond doubt: the whole interval of their ratio lies above 1."""
        return self.ratio(name, than).low > 1.0

    def slower_at_worst(self, name: str, than: str) -> bool:
        """As `slower`, for the 99th percentiles. False if either candidate has none; see `Timing.has_p99`."""
        if not all(self.timings[n].has_p99 for n in (name, than)):
            return False
        if self.samples and self.samples[name].max() < self.samples[than].min():
            return False
        return self.p99_ratio(name, than).low > 1.0

    def p99_ratio(self, name: str, than: str) -> Ratio:
        """The ratio of the 99th percentiles of two candidates.

        Raises:
            MeasureError: The candidate is unknown, or the samples are missing because the comparison was read from JSON.
        """
        self._require_samples(name, than)
        return paired_quantile_ratio(self.samples[name], self.samples[than], 0.99)

    def ratio(self, name: str, than: str) -> Ratio:
        """The ratio of the medians of two candidates.

        Raises:
            MeasureError: The candidate is unknown, or the samples are missing because the comparison was read from JSON.
        """
        if than == self.baseline and name in self.ratios:
            return self.ratios[name]
        self._require_samples(name, than)
        return paired_ratio(self.samples[name], self.samples[than])

    def _require_samples(self, name: str, than: str) -> None:
        for wanted in (name, than):
            if wanted not in self.timings:
                raise MeasureError(f"no candidate {wanted!r} was timed", hint=f"one of {', '.join(self.timings)}")
        if not self.samples:
            raise MeasureError(
                f"the ratio of {name} to {than} needs the samples, and JSON does not hold them",
                hint=f"only ratios of medians to the baseline, {self.baseline}, are stored",
            )

    def to_json(self) -> dict[str, Any]:
        """The comparison as values for JSON, without the samples."""
        return {
            "baseline": self.baseline,
            "threads": self.threads,
            "timings": {name: dataclasses.asdict(timing) for name, timing in self.timings.items()},
            "ratios": {name: dataclasses.asdict(ratio) for name, ratio in self.ratios.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The comparison that `to_json` wrote, without the samples."""
        return cls(
            timings={name: Timing(**timing) for name, timing in values["timings"].items()},
            ratios={name: Ratio(**ratio) for name, ratio in values["ratios"].items()},
            baseline=values["baseline"],
            threads=values["threads"],
        )

    def table(self) -> str:
        """A line for each candidate, in microseconds; `~` before a p99 of fewer than 100 samples."""
        head = ("", "p50 us", "p99 us", "min us", "samples", f"ratio to {self.baseline} [95 %]")
        lines = [head, *(self._line(name) for name in self.timings)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, len(head) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def _line(self, name: str) -> tuple[str, ...]:
        timing = self.timings[name]
        doubt = "~" if timing.samples < P99_SAMPLES else ""
        median, p99, best = (f"{seconds * 1e6:,.1f}" for seconds in (timing.median, timing.p99, timing.best))
        return name, median, doubt + p99, best, str(timing.samples), str(self.ratios[name])

    __str__ = table
