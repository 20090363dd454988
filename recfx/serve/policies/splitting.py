"""Splits the candidates of one request, or of one batch, over idle cores.

DeepRecSys (ISCA 2020) splits a query of N candidates into ceil(N / B) tasks of a fixed size B. Here the number of parts follows from
measured times: the request side runs once, each part runs the candidate side of its rows, and each further part costs a hand-off. Smaller
parts use cores less well, so the extra work that a split may cost shrinks with the load of the replica.
"""

from __future__ import annotations

import itertools
import math
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

    def plan(
        self, rows: int, idle_cores: int, busy: float = 0.0, *, waiting: int = 0, budget: float = math.inf
    ) -> SplitPlan:
        """The split with the earliest end whose extra work the load allows.

        If that split ends too late, the one with the fewest parts that ends in time, whatever it costs.

        Args:
            rows: Candidates, at least 1.
            idle_cores: Cores that are free now, the caller's own included, at least 1.
            busy: The share of the replica's cores that was in use lately, from 0 to 1. A share of 1 allows no extra work.
            waiting: Requests that wait. Each of them is about to take one of the idle cores.
            budget: Seconds until the earliest deadline of the rows.
        """
        config = self.config
        most = self.most_parts(rows, max(idle_cores - waiting, 1))
        allowed = self.work(rows, 1) * (1.0 + config.most_extra * (1.0 - min(max(busy, 0.0), 1.0)))
        best, least = 1, self._seconds(rows, 1)
        for parts in range(2, most + 1):
            seconds = self._seconds(rows, parts)
            if seconds < least and self.work(rows, parts) <= allowed:
                best, least = parts, seconds
        if least > budget:
            in_time = (parts for parts in range(2, most + 1) if self._seconds(rows, parts) <= budget)
            best = next(in_time, best)
            least = self._seconds(rows, best)
        size, larger = divmod(rows, best)
        return SplitPlan((size + 1,) * larger + (size,) * (best - larger), least)

    def quickest(self, rows: int, idle_cores: int) -> float:
        """Seconds of the split with the earliest end, whatever it costs.

        Args:
            rows: Candidates, at least 1.
            idle_cores: Cores that are free now, at least 1.
        """
        return min(self._seconds(rows, parts) for parts in range(1, self.most_parts(rows, idle_cores) + 1))

    def most_parts(self, rows: int, idle_cores: int) -> int:
        """The largest number of parts that cores and rows allow."""
        return max(min(self.config.cores, idle_cores, rows // self.config.least_rows), 1)

    def work(self, rows: int, parts: int) -> float:
        """Core-seconds of a split into a number of parts."""
        size, larger = divmod(rows, parts)
        spent = larger * self.times.seconds(size + 1) + (parts - larger) * self.times.seconds(size)
        return self.config.request_seconds + spent + self.config.part_seconds * (parts - 1)

    def _seconds(self, rows: int, parts: int) -> float:
        config = self.config
        return config.request_seconds + self.times.seconds(-(-rows // parts)) + config.part_seconds * (parts - 1)
