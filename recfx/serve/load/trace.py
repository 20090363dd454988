"""Requests at recorded times: a CSV file of seconds, with the rows of each request or without."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recfx.errors import InputError
from recfx.serve.simulator.traces import read_points

_HINT = "write a first line `seconds` or `seconds,rows`, and one line for each request in the order of their times, such as 0.25,120"
#: A body of more rows than this would be refused by every server.
_MOST_ROWS = 1 << 24


@dataclasses.dataclass(frozen=True)
class RequestTrace:
    """Recorded requests.

    Attributes:
        seconds: float64 [n], when each arrives, ascending from 0.
        rows: int64 [n], the rows (candidates) of each; None if they were not recorded.
    """

    seconds: np.ndarray[Any, np.dtype[np.float64]]
    rows: np.ndarray[Any, np.dtype[np.int64]] | None

    @property
    def rate(self) -> float:
        """Requests per second, from the first to the last; infinity if all arrive at once."""
        span = float(self.seconds[-1])
        return (len(self.seconds) - 1) / span if span else float("inf")

    def at_rate(self, rate: float) -> RequestTrace:
        """The same requests in a shorter or longer time, so that they are `rate` in a second on average."""
        span = float(self.seconds[-1])
        return self if not span else RequestTrace(self.seconds * (self.rate / rate), self.rows)

    def before(self, seconds: float) -> RequestTrace:
        """The requests of the first seconds."""
        count = int(np.searchsorted(self.seconds, seconds))
        return RequestTrace(self.seconds[:count], None if self.rows is None else self.rows[:count])


def read_requests(path: Path) -> RequestTrace:
    """The requests of a CSV file.

    Its first line is `seconds` or `seconds,rows`. Each further line is one request. The first time becomes 0.

    Raises:
        InputError: The file cannot be read, has other lines, times that go back, or numbers of rows that are not positive integers.
    """
    head, points = read_points(path, (("seconds",), ("seconds", "rows")), _HINT)
    table = np.asarray(points, np.float64)
    seconds = table[:, 0] - table[0, 0]
    if back := np.flatnonzero(np.diff(seconds) < 0.0).tolist():
        earlier, later = table[back[0] : back[0] + 2, 0].tolist()
        raise InputError(
            f"request {back[0] + 2} of the trace has the time {later:g}, which is before {earlier:g}",
            where=str(path),
            hint="sort the requests by time",
        )
    if len(head) == 1:
        return RequestTrace(seconds, None)
    rows = table[:, 1]
    if bad := np.flatnonzero((rows < 1) | (rows > _MOST_ROWS) | (rows != np.floor(rows))).tolist():
        raise InputError(
            f"request {bad[0] + 1} of the trace has {rows[bad[0]]:g} rows",
            where=str(path),
            hint=f"write an integer of 1 to {_MOST_ROWS:,} for the rows of each request",
        )
    return RequestTrace(seconds, rows.astype(np.int64))
