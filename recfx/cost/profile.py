"""`Profile`: the seconds of a call of a compiled model by batch size and number of threads."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Self

from recfx.errors import ArtifactError, InputError, MeasureError
from recfx.formats.records import decode

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ProfilePoint:
    """The measured time of a call.

    Attributes:
        threads: The number of torch's threads.
        rows: The batch size.
        seconds: The median of several calls.
    """

    threads: int
    rows: int
    seconds: float


@dataclasses.dataclass(frozen=True, repr=False)
class Profile:
    """The time of a call by batch size and number of threads.

    Attributes:
        model: The name of the user's model.
        cpu: The processor.
        points: The measured times, sorted by threads and rows; at least one.
    """

    model: str
    cpu: str
    points: tuple[ProfilePoint, ...]

    @property
    def threads(self) -> list[int]:
        """The measured numbers of threads."""
        return sorted({point.threads for point in self.points})

    @property
    def rows(self) -> list[int]:
        """The measured batch sizes."""
        return sorted({point.rows for point in self.points})

    def seconds(self, rows: int, threads: int | None = None) -> float:
        """The time of a call, between measured batch sizes by interpolation of logarithms.

        A batch above the largest measured one takes proportionally longer by the rows of the last two measured ones, one below the smallest
        takes as long as that one. Numbers of threads are interpolated as well; beyond the measured ones the nearest counts.

        Args:
            rows: The batch size, at least 1.
            threads: The number of torch's threads; by default the largest measured one.

        Raises:
            InputError: A number is below 1.
        """
        known = self.threads
        wanted = known[-1] if threads is None else threads
        if rows < 1 or wanted < 1:
            raise InputError(
                f"a call with {rows} rows on {wanted} threads has no time", hint="pass numbers of at least 1"
            )
        times = [self._at(rows, number) for number in known]
        return _between(known, times, wanted)

    def rate(self, rows: int, threads: int | None = None) -> float:
        """Rows per second at a batch size."""
        return rows / self.seconds(rows, threads)

    def to_json(self) -> dict[str, Any]:
        """The profile as values for JSON."""
        return {"format": _FORMAT, **dataclasses.asdict(self), "points": [dataclasses.asdict(p) for p in self.points]}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The profile that `to_json` wrote.

        Raises:
            MeasureError: The values are not a profile of this format.
        """
        try:
            plain = dict(values)
            if plain.pop("format", None) != _FORMAT:
                raise ValueError("another format")
            found: Self = decode(cls, plain, "profile")
            sound = all(p.threads > 0 and p.rows > 0 and 0 < p.seconds < math.inf for p in found.points)
            if not found.points or not sound:
                raise ValueError("times are missing")
        except (ArtifactError, TypeError, ValueError) as error:
            what = getattr(error, "in_one_line", str(error))
            raise MeasureError(f"not a profile: {what}", hint="measure the model again") from error
        return found

    def __repr__(self) -> str:
        head = ["rows", *(f"{number} thread{'s' if number > 1 else ''}" for number in self.threads)]
        times = {(point.rows, point.threads): f"{point.seconds * 1e6:,.1f} us" for point in self.points}
        lines = [head, *([str(n), *(times.get((n, t), "") for t in self.threads)] for n in self.rows)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
        rendered = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([f"{self.model} on {self.cpu}", *rendered])

    def _at(self, rows: int, threads: int) -> float:
        """The time at a measured number of threads."""
        held = sorted((point.rows, point.seconds) for point in self.points if point.threads == threads)
        known, times = [r for r, _ in held], [t for _, t in held]
        if rows <= known[-1] or len(known) == 1:
            beyond = rows / known[-1] if rows > known[-1] else 1.0
            return _between(known, times, rows) * beyond
        slope = max((times[-1] - times[-2]) / (known[-1] - known[-2]), 0.0)
        return times[-1] + slope * (rows - known[-1])


def _between(known: Sequence[int], values: Sequence[float], wanted: int) -> float:
    """Linear interpolation of logarithms, constant beyond both ends."""
    at = bisect_left(known, wanted)
    if at == len(known) or at == 0 or known[at] == wanted:
        return values[min(at, len(known) - 1)]
    share = math.log(wanted / known[at - 1]) / math.log(known[at] / known[at - 1])
    return math.exp((1 - share) * math.log(values[at - 1]) + share * math.log(values[at]))
