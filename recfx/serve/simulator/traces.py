"""Loads that were recorded: a CSV file of times, or of rates over time."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
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
    head, points = read_points(path, (("seconds",), ("seconds", "rate")), _HINT)
    first = points[0][0]
    try:
        if len(head) == 1:
            return RecordedTimes(tuple(point[0] - first for point in points))
        return RateTrace(tuple((point[0] - first, point[1]) for point in points))
    except InputError as error:
        raise InputError(error.what, where=str(path), hint=error.hint) from error


def read_points(path: Path, heads: Collection[tuple[str, ...]], hint: str) -> tuple[tuple[str, ...], list[list[float]]]:
    """The first line of a CSV file and the numbers of the others, of which there is one at least.

    Args:
        path: The file.
        heads: The first lines that it may have.
        hint: The next step for a file that has another form.

    Raises:
        InputError: The file cannot be read, or has other lines.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, line) for line in reader if line]
    except OSError as error:
        raise InputError(f"the trace cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"the trace is not a CSV file: {error}", where=str(path), hint=hint) from error
    head = tuple(cell.strip().lower() for cell in lines[0][1]) if lines else ()
    if head not in heads:
        raise InputError(f"the first line of the trace is {','.join(head)[:200]!r}", where=str(path), hint=hint)
    points = [_numbers(line, len(head), at, path, hint) for at, line in lines[1:]]
    if not points:
        raise InputError("the trace has no times", where=str(path), hint=hint)
    return head, points


def _numbers(line: list[str], count: int, at: int, path: Path, hint: str) -> list[float]:
    try:
        numbers = [float(cell) for cell in line]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"line {at} of the trace is {','.join(line)[:200]!r}", where=str(path), hint=hint)
    return numbers
