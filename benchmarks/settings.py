"""The settings of a measurement, and the receiver of its events."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from benchmarks.results import Point, Results
from recfx.errors import InputError

if TYPE_CHECKING:
    from benchmarks.case import Case

BASELINE = "eager"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        batches: Batch sizes.
        candidates: Numbers of candidates for cases of one request.
        threads: Numbers of threads.
        zipfs: Exponents of the ids' distributions; None for uniform ids.
        seconds: Time for each peer at each point.
        rounds: Least number of rounds of turns, even if they take longer.
        budget: Limit of the seconds in which a peer prepares at a point; None for no limit.
        footprint: Bytes of table rows that the rotated inputs read together, so that rows come from the same level of
            memory as in service.
        seed: Seed of inputs, order and intervals.
    """

    batches: tuple[int, ...] = (1, 16, 64)
    candidates: tuple[int, ...] = (100, 500, 2000)
    threads: tuple[int, ...] = (1,)
    zipfs: tuple[float | None, ...] = (None,)
    seconds: float = 1.0
    rounds: int = 15
    budget: float | None = None
    footprint: int = 64 * 2**20
    seed: int = 0

    def __post_init__(self) -> None:
        several = (("batch", self.batches), ("candidates", self.candidates), ("threads", self.threads))
        for name, values in (*several, ("rounds", (self.rounds,))):
            if not values or min(values) < 1:
                raise InputError(
                    f"{name} must be numbers from 1, got {list(values)}",
                    where="benchmarks",
                    hint="write numbers such as 1,16,1024",
                )
        for name, value in (("seconds", self.seconds), ("budget", self.budget)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"{name} must be positive, got {value}", where="benchmarks", hint="pass a positive number"
                )

    def points(self, case: Case) -> list[Point]:
        """The points of a case."""
        batches = self.candidates if case.request else self.batches
        return [Point(case.name, t, z, b) for t in self.threads for z in self.zipfs for b in batches]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    def how(self) -> dict[str, Any]:
        """The part of `to_json` that must be equal for comparable results."""
        return {key: value for key, value in self.to_json().items() if key in HOW}


#: Settings that define how to measure, not the points.
HOW = ("seconds", "rounds", "footprint", "seed")


class Watcher:
    """Receives the events of a run; the base class ignores them."""

    def begin(self, point: Point, doing: str) -> None:
        """A step that takes time begins."""

    def done(self, point: Point) -> None:
        """All peers were measured at a point."""

    def changed(self, results: Results) -> None:
        """New results were added."""
