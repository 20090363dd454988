"""Routing: which replica gets the next request. Round robin, least in flight, power of two choices, peak EWMA; `prequal.py` has Prequal.

A router belongs to one balancer and counts the requests that this balancer has in flight. Calls from several threads need a lock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from recfx.serve.policies._checks import check_number, refuse

R = TypeVar("R", bound=Hashable)


class Router(ABC, Generic[R]):
    """Chooses replicas and counts requests in flight.

    Args:
        replicas: Names of the replicas.

    Raises:
        ValueError: A replica is named twice.
    """

    def __init__(self, replicas: Iterable[R]) -> None:
        self._replicas: list[R] = []
        self._in_flight: dict[R, int] = {}
        for replica in replicas:
            self.add(replica)

    @property
    def replicas(self) -> tuple[R, ...]:
        """The replicas that requests go to."""
        return tuple(self._replicas)

    def in_flight(self, replica: R) -> int:
        """Requests of this balancer that a replica has not answered; 0 for an unknown one."""
        return self._in_flight.get(replica, 0)

    def choose(self, now: float, avoid: R | None = None) -> R:
        """The replica of the next request, which counts as in flight there from now on.

        Args:
            now: The present time in seconds.
            avoid: A replica that just failed the request; another one is chosen if there is one.

        Raises:
            LookupError: There is no replica.
        """
        chosen = self.preferred(now, avoid)
        self.sent(chosen)
        return chosen

    def preferred(self, now: float, avoid: R | None = None) -> R:
        """The replica of the next request, which does not count as in flight: `sent` counts it when it is sent there.

        Args:
            now: The present time in seconds.
            avoid: See `choose`.

        Raises:
            LookupError: There is no replica.
        """
        replicas = self._replicas
        if not replicas:
            raise LookupError("no replica is known: add one before choosing")
        chosen = self._pick(now)
        if avoid is not None and chosen == avoid and len(replicas) > 1:
            chosen = replicas[(replicas.index(avoid) + 1) % len(replicas)]
        return chosen

    def sent(self, replica: R) -> None:
        """Counts a request as in flight; without effect for a replica that was removed."""
        if replica in self._in_flight:
            self._in_flight[replica] += 1
            self._changed(replica)

    def finished(self, replica: R, seconds: float, now: float, ok: bool = True) -> None:
        """Records an answer. Without effect for a replica that was removed.

        Args:
            replica: The replica.
            seconds: The time from sending to the answer.
            now: The present time.
            ok: Whether it is an answer, and not an error.
        """
        if replica not in self._in_flight:
            return
        self._in_flight[replica] = max(self._in_flight[replica] - 1, 0)
        self._observe(replica, seconds, now, ok)
        self._changed(replica)

    def add(self, replica: R) -> None:
        """Sends requests to one more replica.

        Raises:
            ValueError: The replica is known.
        """
        if replica in self._in_flight:
            raise refuse(f"the replica {replica!r} is known", "give each replica a name of its own")
        self._replicas.append(replica)
        self._in_flight[replica] = 0
        self._changed(replica)

    def remove(self, replica: R) -> None:
        """Sends no more requests to a replica; without effect for an unknown one."""
        if self._in_flight.pop(replica, None) is not None:
            self._replicas.remove(replica)
            self._forget(replica)

    @abstractmethod
    def _pick(self, now: float) -> R:
        """One of `_replicas`, which is not empty."""

    def _observe(self, replica: R, seconds: float, now: float, ok: bool) -> None:
        """Learns from an answer."""

    def _changed(self, replica: R) -> None:
        """Learns that the count in flight of a replica changed."""

    def _forget(self, replica: R) -> None:
        """Learns that a replica was removed."""


class RoundRobin(Router[R]):
    """Every replica in turn."""

    def __init__(self, replicas: Iterable[R]) -> None:
        self._next = 0
        super().__init__(replicas)

    def _pick(self, now: float) -> R:
        at = self._next % len(self._replicas)
        self._next = at + 1
        return self._replicas[at]


class LeastInFlight(Router[R]):
    """The replica with the fewest requests in flight; of several, the one that has had this count for longest."""

    def __init__(self, replicas: Iterable[R]) -> None:
        self._levels: list[dict[R, None]] = [{}]  # by requests in flight; a dict is an ordered set
        self._level_of: dict[R, int] = {}
        self._lowest = 0
        super().__init__(replicas)

    def _pick(self, now: float) -> R:
        levels = self._levels
        while not levels[self._lowest]:
            self._lowest += 1
        return next(iter(levels[self._lowest]))

    def _changed(self, replica: R) -> None:
        level = self._in_flight[replica]
        before = self._level_of.get(replica)
        if before is not None:
            del self._levels[before][replica]
        while len(self._levels) <= level:
            self._levels.append({})
        self._levels[level][replica] = None
        self._level_of[replica] = level
        self._lowest = min(self._lowest, level)

    def _forget(self, replica: R) -> None:
        del self._levels[self._level_of.pop(replica)][replica]


class PowerOfTwo(Router[R]):
    """The replica with fewer requests in flight of two that are drawn at random."""

    def __init__(self, replicas: Iterable[R], random: Random) -> None:
        self._random = random
        super().__init__(replicas)

    def _pick(self, now: float) -> R:
        first, second = _two(self._replicas, self._random)
        return second if self._in_flight[second] < self._in_flight[first] else first


@dataclass(frozen=True)
class PeakEwmaConfig:
    """Constants of peak EWMA.

    Attributes:
        decay_seconds: Time in which the weight of old latencies falls to 1/e.
        first_seconds: The latency that counts for a replica before its first answer.
        penalty_seconds: The least latency that an error counts as, so that a replica that fails quickly does not attract requests.
    """

    decay_seconds: float = 5.0
    first_seconds: float = 0.05
    penalty_seconds: float = 1.0

    def __post_init__(self) -> None:
        check_number("decay_seconds", self.decay_seconds, 0.0, above=True)
        check_number("first_seconds", self.first_seconds, 0.0, above=True)
        check_number("penalty_seconds", self.penalty_seconds, 0.0)


class PeakEwma(Router[R]):
    """Of two replicas drawn at random, the one with the smaller product of latency and requests in flight, this one included.

    The latency is an exponentially weighted moving average that rises at once to a higher value (Finagle). It also falls with time
    without an answer, so that a replica that was slow is tried again.
    """

    def __init__(self, replicas: Iterable[R], random: Random, config: PeakEwmaConfig | None = None) -> None:
        self.config = config or PeakEwmaConfig()
        self._random = random
        self._average: dict[R, tuple[float, float]] = {}  # latency, and when it was observed
        super().__init__(replicas)

    def cost(self, replica: R, now: float) -> float:
        """Latency times requests in flight, in seconds; 0 for a replica that never got a request, so that it gets its first one."""
        if not self._in_flight[replica] and replica not in self._average:
            return 0.0
        return self.latency(replica, now) * (self._in_flight[replica] + 1)

    def latency(self, replica: R, now: float) -> float:
        """The average latency of a replica, in seconds."""
        held = self._average.get(replica)
        if held is None:
            return self.config.first_seconds
        average, since = held
        return average * math.exp(min(since - now, 0.0) / self.config.decay_seconds)

    def _pick(self, now: float) -> R:
        first, second = _two(self._replicas, self._random)
        return second if self.cost(second, now) < self.cost(first, now) else first

    def _observe(self, replica: R, seconds: float, now: float, ok: bool) -> None:
        seen = seconds if ok else max(seconds, self.config.penalty_seconds)
        held = self._average.get(replica)
        if held is not None and seen < held[0]:
            weight = math.exp(min(held[1] - now, 0.0) / self.config.decay_seconds)
            seen = held[0] * weight + seen * (1.0 - weight)
        self._average[replica] = (seen, now if held is None else max(now, held[1]))

    def _forget(self, replica: R) -> None:
        self._average.pop(replica, None)


def _two(replicas: list[R], random: Random) -> tuple[R, R]:
    """Two different replicas, or the only one twice."""
    count = len(replicas)
    if count == 1:
        return replicas[0], replicas[0]
    first = int(random.random() * count)
    second = int(random.random() * (count - 1))
    return replicas[first], replicas[second + (second >= first)]
