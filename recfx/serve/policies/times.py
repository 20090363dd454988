"""Seconds of a call by its number of rows, as policies use them: never falling, quick to read, and invertible."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import accumulate

from recfx.serve.policies._checks import check_count, check_number, refuse

#: Rows up to which times stand in a list.
_TABLE = 4096


class ServiceTimes:
    """The time of a call by its number of rows.

    Between measured numbers of rows, logarithms are interpolated. Below the smallest one a call takes as long as there; above the
    largest one the time grows by the slope of the last two, or in proportion if only one was measured. A measured time that is below
    the time of fewer rows is raised to that, so that more rows never take less time.

    Args:
        points: Number of rows -> seconds of a call on one core.

    Raises:
        ValueError: There is no point, a number of rows is below 1, or a time is not above 0.
    """

    def __init__(self, points: Mapping[int, float]) -> None:
        if not points:
            raise refuse("no time was measured", "pass seconds of a call for at least one number of rows")
        for count, seconds in points.items():
            check_count("a number of rows", count)
            check_number(f"the time of {count} rows", seconds, 0.0, above=True)
        self._rows = sorted(points)
        self._seconds: list[float] = []
        for count in self._rows:
            self._seconds.append(max(points[count], self._seconds[-1] if self._seconds else 0.0))
        table = (self._at(max(count, 1)) for count in range(_TABLE + 1))
        self._table = list(accumulate(table, max))

    def seconds(self, rows: int) -> float:
        """The time of a call with a number of rows, at least 1."""
        return self._table[rows] if 0 < rows <= _TABLE else self._at(max(rows, 1))

    def rate(self, rows: int) -> float:
        """Rows per second in calls of a number of rows."""
        return rows / self.seconds(rows)

    def most_rows(self, seconds: float, limit: int) -> int:
        """The largest number of rows, at most `limit`, that a call of at most `seconds` holds; 0 if one row takes longer."""
        if limit <= _TABLE:
            return bisect_right(self._table, seconds, 1, limit + 1) - 1
        return bisect_right(range(1, limit + 1), seconds, key=self._at)

    def best_rows(self, limit: int) -> int:
        """The number of rows, at most `limit`, at which most rows per second are computed; the smallest of several."""
        candidates = {count for count in self._rows if count <= limit} | {limit}
        return max(sorted(candidates), key=self.rate)

    def efficient_rows(self, limit: int, share: float) -> int:
        """The smallest power of two, at most `limit`, at which a share of the most rows per second is computed; `limit` without one."""
        wanted = share * self.rate(self.best_rows(limit))
        sizes = (1 << power for power in range(limit.bit_length()))
        return next((rows for rows in sizes if self.rate(rows) >= wanted), limit)

    def scaled(self, factor: float) -> ServiceTimes:
        """The times of a machine that takes `factor` times as long."""
        check_number("factor", factor, 0.0, above=True)
        return ServiceTimes({count: time * factor for count, time in zip(self._rows, self._seconds, strict=True)})

    def without(self, seconds: float) -> ServiceTimes:
        """The times of calls that save a constant time; a tenth of each time stays at least."""
        check_number("seconds", seconds, 0.0)
        held = zip(self._rows, self._seconds, strict=True)
        return ServiceTimes({count: max(time - seconds, 0.1 * time) for count, time in held})

    def _at(self, rows: int) -> float:
        known, times = self._rows, self._seconds
        if rows > known[-1]:
            if len(known) == 1:
                return times[0] * rows / known[0]
            slope = (times[-1] - times[-2]) / (known[-1] - known[-2])
            return times[-1] + slope * (rows - known[-1])
        at = bisect_left(known, rows)
        if at == 0 or known[at] == rows:
            return times[at]
        low, high = times[at - 1], times[at]
        share = math.log(rows / known[at - 1]) / math.log(known[at] / known[at - 1])
        return min(low * math.exp(share * math.log(high / low)), high)


class TimeCorrection:
    """How much longer calls take than predicted: the exponentially weighted mean of logarithms of measured over predicted times.

    Args:
        weight: The weight of the newest call.
        most: The factor stays between `1 / most` and `most`.

    Attributes:
        factor: Multiply a predicted time by it.
    """

    def __init__(self, weight: float = 0.1, most: float = 16.0) -> None:
        check_number("weight", weight, 0.0, 1.0, above=True)
        check_number("most", most, 1.0)
        self._weight, self._limit, self._log = weight, math.log(most), 0.0
        self.factor = 1.0

    def observe(self, predicted: float, measured: float) -> None:
        """Records one call; without effect if a time is not above 0."""
        if predicted > 0.0 and measured > 0.0:
            step = math.log(measured) - math.log(predicted) - self._log
            self._log = min(max(self._log + self._weight * step, -self._limit), self._limit)
            self.factor = math.exp(self._log)
