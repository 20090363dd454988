"""Loads that were recorded: a CSV file of times, or of rates over time."""

from __future__ import annotations

import csv
from pathlib import Path

from recfx.errors import InputError
from recfx.serve.simulator.arrivals import Arrivals, RateTrace, RecordedTimes

_HINT = "write a first line `seconds` or `seconds,rate`, and one line of numbers for each request or each point"


def read_trace(path: Path) -> Arrivals:
    """The load in a CSV file.

    Its first line is `seconds`, and each further line is the time of one request; or it is `seconds,rate`, and each further line is a
    time and the requests per second at that time. The first time becomes 0.

    Raises:
        InputError: The file cannot be read, or has other lines.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except OSError as error:
        raise InputError(f"the trace cannot be read: {error.strerror}", where=str(path), hint=_HINT) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"the trace is not a CSV file: {error}", where=str(path), hint=_HINT) from error
    head = tuple(cell.strip().lower() for cell in lines[0]) if lines else ()
    if head not in (("seconds",), ("seconds", "rate")):
        raise InputError(f"the first line of the trace is {','.join(head)!r}", where=str(path), hint=_HINT)
    points = [_numbers(line, len(head), at, path) for at, line in enumerate(lines[1:], 2)]
    if not points:
        raise InputError("the trace has no times", where=str(path), hint=_HINT)
    first = points[0][0]
    try:
        if len(head) == 1:
            return RecordedTimes(tuple(point[0] - first for point in points))
        return RateTrace(tuple((point[0] - first, point[1]) for point in points))
    except InputError as error:
        raise InputError(error.what, where=str(path), hint=error.hint) from error


def _numbers(line: list[str], count: int, at: int, path: Path) -> list[float]:
    try:
        numbers = [float(cell) for cell in line]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InputError(f"line {at} of the trace is {','.join(line)!r}", where=str(path), hint=_HINT)
    return numbers
