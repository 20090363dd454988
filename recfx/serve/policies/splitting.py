"""Splits the candidates of one request, or of one batch, over idle cores.

DeepRecSys (ISCA 2020) splits a query of N candidates into ceil(N / B) tasks of a fixed size B. Here the number of parts follows from
measured times: the request side runs once, each part runs the candidate side of its rows, and each further part costs a hand-off. Smaller
parts use cores less well, so the extra work that a split may cost shrinks with the load of the replica.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from recfx.serve.policies._checks import check_count, check_number
from recfx.serve.policies.times import ServiceTimes


@dataclass(frozen=True)
class SplitConfig:
    """Costs and limits of a split.

    Attributes:
        cores: Parts at most.
        request_seconds: Time of the request side, which runs once before the parts.
        part_seconds: Cost of each part after the first: handing it to another core and collecting its scores.
        least_rows: Rows of a part at least; fewer rows stay in one part.
        most_extra: Core-seconds that a split may cost above those of one part, as a share of these, on an idle replica.
    """

    cores: int
    request_seconds: float = 0.0
    part_seconds: float = 20e-6
    least_rows: int = 16
    most_extra: float = 0.5

    def __post_init__(self) -> None:
        check_count("cores", self.cores)
        check_number("request_seconds", self.request_seconds, 0.0)
        check_number("part_seconds", self.part_seconds, 0.0)
        check_count("least_rows", self.least_rows)
        check_number("most_extra", self.most_extra, 0.0)


@dataclass(frozen=True)
class SplitPlan:
    """A split.

    Attributes:
        parts: Rows of each part; sizes differ by one at most, larger ones first.
        seconds: Predicted time from the beginning to the last score.
    """

    parts: tuple[int, ...]
    seconds: float

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """First row and end of each part."""
        ends = [0]
        for rows in self.parts:
            ends.append(ends[-1] + rows)
        return tuple(itertools.pairwise(ends))


class CandidateSplit:
    """Chooses the number of parts.

    Attributes:
        times: Seconds of the candidate side by rows on one core.
    """

    def __init__(self, times: ServiceTimes, config: SplitConfig) -> None:
        self.times = times
        self.config = config

    def plan(self, rows: int, idle_cores: int, busy: float = 0.0) -> SplitPlan:
        """The split with the earliest end whose extra work the load allows.

        Args:
            rows: Candidates, at least 1.
            idle_cores: Cores that are free now, the caller's own included, at least 1.
            busy: The share of the replica's cores that was in use lately, from 0 to 1. A share of 1 allows no extra work.
        """
        config = self.config
        allowed = self.work(rows, 1) * (1.0 + config.most_extra * (1.0 - min(max(busy, 0.0), 1.0)))
        best, least = 1, self._seconds(rows, 1)
        for parts in range(2, min(config.cores, idle_cores, rows // config.least_rows) + 1):
            seconds = self._seconds(rows, parts)
            if seconds < least and self.work(rows, parts) <= allowed:
                best, least = parts, seconds
        size, larger = divmod(rows, best)
        return SplitPlan((size + 1,) * larger + (size,) * (best - larger), least)

    def work(self, rows: int, parts: int) -> float:
        """Core-seconds of a split into a number of parts."""
        size, larger = divmod(rows, parts)
        spent = larger * self.times.seconds(size + 1) + (parts - larger) * self.times.seconds(size)
        return self.config.request_seconds + spent + self.config.part_seconds * (parts - 1)

    def _seconds(self, rows: int, parts: int) -> float:
        config = self.config
        return config.request_seconds + self.times.seconds(-(-rows // parts)) + config.part_seconds * (parts - 1)
