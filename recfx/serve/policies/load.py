"""The measured load: requests and rows per second over a sliding window of time, and the share of the cores in use."""

from __future__ import annotations

import math
from collections import deque

from recfx.serve.policies._checks import check_count, check_number


class LoadMeter:
    """Counts arrivals in buckets of time.

    A time before the latest one counts as the latest one, so that a clock that jumps back does no harm.

    Args:
        seconds: The length of the window.
        buckets: The number of parts of the window; the oldest part is forgotten as a whole.
        now: The present time.
    """

    def __init__(self, seconds: float = 1.0, buckets: int = 4, now: float = 0.0) -> None:
        check_number("seconds", seconds, 0.0, above=True)
        check_count("buckets", buckets)
        self._width = seconds / buckets
        self._past: deque[tuple[int, int]] = deque(maxlen=buckets)
        self._begin, self._latest = now, now
        self._requests, self._rows = 0, 0

    def record(self, rows: int, now: float) -> None:
        """Counts a request of `rows` rows."""
        if now >= self._begin + self._width:
            self._advance(now)
        elif now > self._latest:
            self._latest = now
        self._requests += 1
        self._rows += rows

    def rows_per_second(self, now: float) -> float:
        """Rows per second in the window."""
        self._advance(now)
        return (self._rows + sum(rows for _, rows in self._past)) / self._span()

    def requests_per_second(self, now: float) -> float:
        """Requests per second in the window."""
        self._advance(now)
        return (self._requests + sum(requests for requests, _ in self._past)) / self._span()

    def _span(self) -> float:
        """Seconds that the counts cover; at least one bucket, so that the first request is not taken for a high rate."""
        return max(len(self._past) * self._width + self._latest - self._begin, self._width)

    def _advance(self, now: float) -> None:
        self._latest = max(self._latest, now)
        passed = int((self._latest - self._begin) / self._width)
        if passed <= 0:
            return
        self._past.append((self._requests, self._rows))
        for _ in range(min(passed - 1, self._past.maxlen or 0)):
            self._past.append((0, 0))
        self._begin += passed * self._width
        self._requests, self._rows = 0, 0


class BusyMeter:
    """The share of a replica's cores in use: its average over time, where the past counts less and less.

    A share that is sampled when batches begin would count a split batch as a busy replica, however rare batches are.

    Args:
        cores: Cores of the replica.
        seconds: What happened so long ago counts 1/e of what happens now.
        now: The present time.
    """

    def __init__(self, cores: int, seconds: float = 1.0, now: float = 0.0) -> None:
        check_count("cores", cores)
        check_number("seconds", seconds, 0.0, above=True)
        self._cores, self._seconds = cores, seconds
        self._latest, self._in_use, self._share = now, 0, 0.0

    def changed(self, in_use: int, now: float) -> None:
        """From `now` on, some cores are in use. A time before the latest one counts as the latest one."""
        self._share = self.share(now)
        self._latest = max(self._latest, now)
        self._in_use = in_use

    def share(self, now: float) -> float:
        """The average share, from 0 to 1."""
        weight = math.exp(-max(now - self._latest, 0.0) / self._seconds)
        return weight * self._share + (1.0 - weight) * min(self._in_use / self._cores, 1.0)
