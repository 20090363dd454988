"""`Estimate`, a time and its uncertainty."""

from __future__ import annotations

import dataclasses
import math

from recfx.errors import MeasureError


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A time in seconds, and the interval in which it is expected.

    Infinity stands for work that a backend cannot do.

    Attributes:
        seconds: The expected time.
        low: The lower end of the interval.
        high: The upper end.

    Raises:
        MeasureError: The three numbers are not 0 <= low <= seconds <= high.
    """

    seconds: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.seconds <= self.high:
            raise MeasureError(
                f"a time of {self.seconds} s with the interval [{self.low}, {self.high}] is not an estimate",
                hint="0 <= low <= seconds <= high, without NaN",
            )

    @staticmethod
    def exactly(seconds: float) -> Estimate:
        """A time without uncertainty."""
        return Estimate(seconds, seconds, seconds)

    def __add__(self, other: Estimate) -> Estimate:
        """The time of both, one after the other.

        The ends are added as well, because errors of one model are correlated: they do not cancel in a sum.
        """
        return Estimate(self.seconds + other.seconds, self.low + other.low, self.high + other.high)

    def scaled(self, factor: float) -> Estimate:
        """The time of `factor` times as much work.

        Args:
            factor: A finite number of at least 0. Zero times an infinite time is zero.
        """
        if not 0 <= factor < math.inf:
            raise MeasureError(f"a time cannot be scaled by {factor}", hint="pass a finite factor that is not negative")
        return Estimate(*(value * factor if factor else 0.0 for value in (self.seconds, self.low, self.high)))

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals have a common point, so that the two times may be equal."""
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        micro = (f"{value * 1e6:.4g}" for value in (self.seconds, self.low, self.high))
        return "{} us [{}, {}]".format(*micro)


#: No work.
NOTHING = Estimate(0.0, 0.0, 0.0)
