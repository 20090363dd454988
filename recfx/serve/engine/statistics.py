"""Counts and times of a served model, for metrics and for the live page."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from recfx.serve.outcomes import Reason

#: Upper bounds of buckets, in seconds: from 50 us to 10 s, 1, 2 and 5 in each decade.
SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
#: Upper bounds of buckets of rows.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
#: Answers that quantiles are computed from.
_RECENT = 4096


class Histogram:
    """Counts of values in buckets, and their sum.

    Args:
        bounds: The upper bounds of the buckets, rising; one more bucket has no bound.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def cumulative(self) -> list[int]:
        """For each bound the number of values up to it, and then the number of all values."""
        return list(accumulate(self._counts))


class Point(NamedTuple):
    """One second of a model's life.

    Attributes:
        second: When, in seconds of the engine's clock.
        answered: Answers.
        rejected: Requests without an answer.
        rows: Rows of the answers.
        batches: Calls of the model.
        slowest: The longest time from arrival to answer, in seconds.
        version: The version of the model at its end.
    """

    second: int
    answered: int
    rejected: int
    rows: int
    batches: int
    slowest: float
    version: str


class Statistics:
    """Counts and times of a served model. Its methods are called under the engine's lock."""

    def __init__(self) -> None:
        self.latency = Histogram(SECONDS)
        self.waiting = Histogram(SECONDS)
        self.computing = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.answered = 0
        self.late = 0
        self.rows = 0
        self.batches = 0
        self.divided = 0
        self.rejected = dict.fromkeys(Reason, 0)
        self.retried = 0
        self.replaced_workers = 0
        self.table_updates = 0
        self.table_rows = 0
        self.updated: float | None = None
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._points: deque[Point] = deque(maxlen=300)
        self._open: Point | None = None

    def answer(self, arrived: float, now: float, rows: int, version: str, *, late: bool = False) -> None:
        """Counts an answer; `late` says whether its deadline has passed."""
        self.answered += 1
        self.late += late
        self.rows += rows
        self.latency.add(now - arrived)
        self._recent.append((now, now - arrived))
        self._add(now, version, answered=1, rows=rows, slowest=now - arrived)

    def update(self, updates: int, rows: int, now: float) -> None:
        """Counts updates of tables.

        Args:
            updates: Their number.
            rows: Their rows, as far as this process was given them.
            now: When they became visible.
        """
        self.table_updates += updates
        self.table_rows += rows
        self.updated = now

    def reject(self, reason: Reason, now: float, version: str) -> None:
        """Counts a request without an answer."""
        self.rejected[reason] += 1
        self._add(now, version, rejected=1)

    def batch(self, rows: int, waited: Sequence[float], seconds: float, now: float, version: str) -> None:
        """Counts a call of the model.

        Args:
            rows: Its rows.
            waited: Seconds that each request waited.
            seconds: The time of the call.
            now: Its end.
            version: The version of the model.
        """
        self.batches += 1
        self.batch_rows.add(rows)
        self.computing.add(seconds)
        for value in waited:
            self.waiting.add(value)
        self._add(now, version, batches=1)

    def quantiles(self, shares: Sequence[float], since: float = 0.0) -> list[float | None]:
        """Quantiles of the last answers' times in seconds; None without an answer.

        Args:
            shares: Such as 0.99.
            since: Answers before this time do not count.
        """
        times = sorted([seconds for when, seconds in self._recent if when >= since])
        return [times[min(int(len(times) * share), len(times) - 1)] if times else None for share in shares]

    @property
    def points(self) -> list[Point]:
        """The last five minutes, second by second; seconds without a request are left out."""
        return [*self._points, *([self._open] if self._open is not None else [])]

    def _add(
        self,
        now: float,
        version: str,
        *,
        answered: int = 0,
        rejected: int = 0,
        rows: int = 0,
        batches: int = 0,
        slowest: float = 0.0,
    ) -> None:
        second, held = int(now), self._open
        if held is not None and held.second < second:
            self._points.append(held)
            held = None
        if held is None:
            self._open = Point(second, answered, rejected, rows, batches, slowest, version)
            return
        self._open = Point(
            held.second, held.answered + answered, held.rejected + rejected, held.rows + rows, held.batches + batches,
            max(held.slowest, slowest), version,
        )  # fmt: skip
