"""When requests arrive: Poisson, diurnal, flash crowds, rates of a trace, or the recorded times of a trace.

All but recorded times are Poisson processes whose rate varies with time; they are drawn by thinning (Lewis and Shedler, 1979).
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from recfx.errors import InputError

#: Arrivals that are drawn at once.
_BLOCK = 65_536
Times = np.ndarray[Any, np.dtype[np.float64]]


class Arrivals(ABC):
    """A process of arrivals."""

    @abstractmethod
    def blocks(self, seconds: float, generator: np.random.Generator) -> Iterator[Times]:
        """Ascending times of arrivals before `seconds`, in blocks."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """The same process with `factor` times as many requests."""

    @abstractmethod
    def mean_rate(self, seconds: float) -> float:
        """Expected requests per second over the first `seconds`."""


class VaryingRate(Arrivals):
    """A Poisson process whose rate varies with time."""

    @abstractmethod
    def rates(self, times: Times) -> Times:
        """Requests per second at each of some times."""

    @property
    @abstractmethod
    def peak(self) -> float:
        """The highest rate."""

    def blocks(self, seconds: float, generator: np.random.Generator) -> Iterator[Times]:
        """Ascending times of arrivals before `seconds`, in blocks."""
        begin, peak = 0.0, self.peak
        while begin < seconds:
            gaps = generator.standard_exponential(_BLOCK) / peak
            times = begin + np.cumsum(gaps)
            begin = float(times[-1])
            kept = generator.random(_BLOCK) * peak < self.rates(times)
            yield times[kept & (times < seconds)]

    def mean_rate(self, seconds: float) -> float:
        """Expected requests per second over the first `seconds`, from the rates at 10,001 times."""
        return float(self.rates(np.linspace(0.0, seconds, 10_001)).mean())


def _require(condition: bool, what: str, hint: str) -> None:
    if not condition:
        raise InputError(what, hint=hint)


def _positive(name: str, value: float) -> None:
    _require(0.0 < value < math.inf, f"{name} is {value!r}", "pass a number above 0")


@dataclasses.dataclass(frozen=True)
class Poisson(VaryingRate):
    """A constant load.

    Attributes:
        rate: Requests per second.
    """

    rate: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)

    def rates(self, times: Times) -> Times:
        """The constant rate."""
        return np.full(times.shape, self.rate)

    @property
    def peak(self) -> float:
        """The constant rate."""
        return self.rate

    def scaled(self, factor: float) -> Poisson:
        """The same with `factor` times the rate."""
        return Poisson(self.rate * factor)


@dataclasses.dataclass(frozen=True)
class Diurnal(VaryingRate):
    """A load that rises and falls as a sine, from its mean at the beginning to its peak after a quarter of the period.

    Attributes:
        rate: Requests per second on average.
        swing: The peak is `1 + swing` times the average, from 0 to 1.
        period: Seconds of a day; shorter ones compress it.
    """

    rate: float
    swing: float = 0.5
    period: float = 86_400.0

    def __post_init__(self) -> None:
        _positive("rate", self.rate)
        _positive("period", self.period)
        _require(0.0 <= self.swing <= 1.0, f"swing is {self.swing!r}", "pass a number from 0 to 1")

    def rates(self, times: Times) -> Times:
        """The rate along the sine."""
        return self.rate * (1.0 + self.swing * np.sin(2.0 * np.pi / self.period * times))

    @property
    def peak(self) -> float:
        """The rate at the top of the sine."""
        return self.rate * (1.0 + self.swing)

    def scaled(self, factor: float) -> Diurnal:
        """The same with `factor` times the rate."""
        return dataclasses.replace(self, rate=self.rate * factor)


@dataclasses.dataclass(frozen=True)
class FlashCrowd(VaryingRate):
    """A constant load with a crowd in between.

    Attributes:
        rate: Requests per second before and after the crowd.
        factor: The load of the crowd, as a multiple of `rate`.
        begin: When the crowd begins, in seconds.
        length: How long it lasts, in seconds.
    """

    rate: float
    factor: float = 3.0
    begin: float = 10.0
    length: float = 30.0

    def __post_init__(self) -> None:
        for name in ("rate", "factor", "length"):
            _positive(name, getattr(self, name))
        _require(0.0 <= self.begin < math.inf, f"begin is {self.begin!r}", "pass a number of at least 0")

    def rates(self, times: Times) -> Times:
        """The rate, and the crowd's between its begin and its end."""
        inside = (times >= self.begin) & (times < self.begin + self.length)
        return np.where(inside, self.rate * self.factor, self.rate)

    @property
    def peak(self) -> float:
        """The higher of the two rates."""
        return self.rate * max(self.factor, 1.0)

    def scaled(self, factor: float) -> FlashCrowd:
        """The same with `factor` times the rate."""
        return dataclasses.replace(self, rate=self.rate * factor)


@dataclasses.dataclass(frozen=True)
class RateTrace(VaryingRate):
    """A load that was recorded as requests per second; between two points the rate is interpolated, and after the last it stays.

    Attributes:
        points: Second and requests per second, ascending.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        sound = all(0.0 <= second < math.inf and 0.0 <= rate < math.inf for second, rate in self.points)
        ascending = all(a[0] < b[0] for a, b in zip(self.points, self.points[1:], strict=False))
        _require(
            bool(self.points) and sound and ascending,
            "the trace of rates is not a list of ascending seconds with rates of at least 0",
            "pass pairs such as ((0, 100), (60, 250))",
        )
        _require(self.peak > 0.0, "all rates of the trace are 0", "pass a trace with requests")

    def rates(self, times: Times) -> Times:
        """The interpolated rate."""
        seconds, rates = zip(*self.points, strict=True)
        found: Times = np.interp(times, seconds, rates)
        return found

    @property
    def peak(self) -> float:
        """The highest point."""
        return max(rate for _, rate in self.points)

    def scaled(self, factor: float) -> RateTrace:
        """The same with `factor` times the rates."""
        return RateTrace(tuple((second, rate * factor) for second, rate in self.points))


@dataclasses.dataclass(frozen=True)
class RecordedTimes(Arrivals):
    """Recorded times of requests.

    Attributes:
        times: Seconds from the beginning, ascending.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        held = np.asarray(self.times, dtype=float)
        sound = held.size and np.isfinite(held).all() and held[0] >= 0.0 and (np.diff(held) >= 0.0).all()
        _require(bool(sound), "the recorded times are not ascending seconds from 0 on", "sort them, and begin at 0")

    def blocks(self, seconds: float, generator: np.random.Generator) -> Iterator[Times]:
        """The times before `seconds`."""
        held = np.asarray(self.times, dtype=float)
        yield held[held < seconds]

    def mean_rate(self, seconds: float) -> float:
        """Requests per second over the first `seconds`."""
        return sum(time < seconds for time in self.times) / seconds

    def scaled(self, factor: float) -> RecordedTimes:
        """The same requests in a shorter or longer time."""
        return RecordedTimes(tuple(time / factor for time in self.times))
