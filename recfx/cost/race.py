"""`race`: the fastest of several callables in little time. Clearly slower ones drop out after a few calls.

A comparison of all candidates in equal detail spends most of its time on the slow ones. Here each round times every candidate that is left,
in a random order, and a candidate drops out when it was slower than the best one by a margin in every round. The margin falls with the
number of rounds: after two rounds only much slower candidates go, later ones that are slower by a few per cent. So the time goes to the
candidates between which the choice is hard, as in successive halving (Jamieson and Talwalkar 2016).
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from recfx.cost.timing import Turn, uncollected
from recfx.errors import MeasureError
from recfx.kernels.background import BACKGROUND

#: A candidate takes part in the rounds if the least of its first calls takes at most this multiple of the fastest one's.
_MUCH_SLOWER = 1.5
#: The first calls of a candidate that are timed: at most three in a tenth of a second, and up to ten if they are short. Where the machine
#: does other work, one call in two may be disturbed.
_FIRST_CALLS, _FIRST_SECONDS, _SHORT_CALLS, _SHORT_SECONDS = 3, 0.1, 10, 0.03
#: Two calls that take more seconds are made only if the expected time of a candidate is at most this multiple of the fastest one's.
_LONG, _HOPELESS = 0.05, 1.3
#: The fewest rounds.
_FEWEST = 2
#: After this many rounds, a candidate drops out if it took more than this multiple of the best one's time in each of them.
_MARGINS = ((2, 1.3), (3, 1.15), (5, 1.08), (8, 1.04))
#: After this many rounds, three quarters of them decide, and differences below this one do not count.
_MANY, _CLOSE = 10, 1.02


@dataclasses.dataclass(frozen=True)
class Raced:
    """The outcome of a race.

    Attributes:
        seconds: Candidate -> the seconds of a call: the median of its rounds, or the least of its first calls. Without the candidates for
            which there was no time, and those that failed.
        left: The candidates that did not drop out, the fastest first.
        failed: Candidate -> the error that it raised.
    """

    seconds: dict[str, float]
    left: tuple[str, ...]
    failed: dict[str, Exception]


def race(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    deadline: float,
    expected: Mapping[str, float] | None = None,
    kept: str | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    seed: int = 0,
) -> Raced:
    """Finds the fastest of several callables.

    Args:
        candidates: Name -> callable without arguments, the most promising one first: it is called in any case.
        seconds: The time of the rounds. The first two may take longer.
        deadline: When to stop, in seconds of the clock.
        expected: Candidate -> the expected seconds of a call. One whose first two calls would last beyond the deadline is not called, nor
            one whose calls are long and expected to be much slower than those of another one.
        kept: The candidate that is preferred to others that are hardly faster: the race ends when it is clear that it is one of the best.
        clock: Returns the time in nanoseconds.
        seed: Seed of the order in each round.
    """
    found = _Race(clock, deadline, random.Random(seed))
    with BACKGROUND, uncollected():
        found.first_calls(candidates, expected or {})
        found.rounds(seconds, kept)
    return found.outcome()


class _Race:
    """The state of a race; see `race` for the arguments."""

    def __init__(self, clock: Callable[[], int], deadline: float, order: random.Random) -> None:
        self.clock, self.deadline, self.order = clock, deadline, order
        self.first: dict[str, float] = {}
        self.turns: dict[str, Turn] = {}
        self.times: dict[str, list[float]] = {}
        self.failed: dict[str, Exception] = {}

    def now(self) -> float:
        return self.clock() * 1e-9

    def first_calls(self, candidates: Mapping[str, Callable[[], object]], expected: Mapping[str, float]) -> None:
        """An untimed call of each candidate, and a few timed ones, more of the fast candidates than of the slow ones."""
        for name, call in candidates.items():
            if self.first and self._is_left_out(expected.get(name, 0.0)):
                continue
            try:
                call()
                self.first[name] = self._least(call)
            except Exception as error:  # noqa: BLE001 - returned to the caller
                self.failed[name] = error
        limit = _MUCH_SLOWER * min(self.first.values(), default=0.0)
        for name, least in self.first.items():
            if least <= limit:
                self.turns[name] = Turn.of(name, candidates[name], least)
                self.times[name] = []

    def _is_left_out(self, expected: float) -> bool:
        """Whether there is no time for two calls, or they take long and are not expected to change the result."""
        hopeless = 2 * expected > _LONG and expected > _HOPELESS * min(self.first.values())
        return hopeless or self.now() + 2 * expected > self.deadline

    def _least(self, call: Callable[[], object]) -> float:
        limit = _MUCH_SLOWER * min(self.first.values(), default=float("inf"))
        times: list[float] = []
        while self._needs_more(times, limit):
            start = self.clock()
            call()
            times.append((self.clock() - start) * 1e-9)
        return min(times)

    @staticmethod
    def _needs_more(times: Sequence[float], limit: float) -> bool:
        if not times:
            return True
        short = len(times) < _SHORT_CALLS and sum(times) < _SHORT_SECONDS
        few = len(times) < _FIRST_CALLS and sum(times) < _FIRST_SECONDS and min(times) <= 2 * limit
        return short or few

    def rounds(self, seconds: float, kept: str | None) -> None:
        """Rounds until one candidate is left, the preferred one is clearly among the best, or the time is up."""
        start = self.now()
        done = 0
        while len(self.turns) > 1 and self.now() + sum(self.first[name] for name in self.turns) <= self.deadline:
            if done >= _FEWEST and self.now() - start >= seconds:
                break
            names = [*self.turns]
            self.order.shuffle(names)
            for name in names:
                self._take(name)
            done += 1
            self._drop(done)
            if kept in self.turns and done >= _MANY and self._is_close(kept):
                break

    def _take(self, name: str) -> None:
        try:
            self.times[name].append(statistics.median(self.turns[name].take(self.clock)))
        except MeasureError as error:
            del self.turns[name], self.times[name]
            self.failed[name] = error.__cause__ if isinstance(error.__cause__, Exception) else error

    def _drop(self, done: int) -> None:
        """Takes out the candidates that are clearly slower than the best one."""
        if not self.turns:
            return
        best = min(self.turns, key=lambda name: statistics.median(self.times[name]))
        for name in [name for name in self.turns if name != best]:
            if _is_slower([a / b for a, b in zip(self.times[name], self.times[best], strict=True)], done):
                del self.turns[name]

    def _is_close(self, name: str) -> bool:
        """Whether a candidate is hardly slower than any other in three quarters of the rounds."""
        others = [self.times[other] for other in self.turns if other != name]
        pairs = ([a / b for a, b in zip(self.times[name], other, strict=True)] for other in others)
        return all(_quarter(ratios, 3) < _CLOSE for ratios in pairs)

    def outcome(self) -> Raced:
        """What was found."""
        seconds = {name: one for name, one in self.first.items() if name not in self.failed}
        seconds |= {name: statistics.median(times) for name, times in self.times.items() if times}
        left = sorted(self.turns, key=seconds.__getitem__)
        return Raced(seconds, tuple(left), self.failed)


def _is_slower(ratios: Sequence[float], done: int) -> bool:
    """Whether a candidate is clearly slower, by the ratios of its times to those of the best one."""
    margin = min((margin for rounds, margin in _MARGINS if done >= rounds), default=float("inf"))
    return min(ratios) > margin or (done >= _MANY and _quarter(ratios, 1) > _CLOSE)


def _quarter(values: Sequence[float], number: int) -> float:
    """A quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")[number - 1]
