"""Prequal's routing (NSDI 2024): probes report requests in flight and latency; the hot-cold rule chooses among them.

A probe is hot if its requests in flight exceed a quantile of recent ones, and cold otherwise. If any probe is cold, the cold one with the
lowest latency is chosen; if all are hot, the one with the fewest requests in flight.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Generic

from recfx.serve.policies._checks import check_count, check_number
from recfx.serve.policies.routing import R, Router

#: With fewer probes in the pool, a replica is drawn at random.
_FEWEST = 2


@dataclass(frozen=True)
class PrequalConfig:
    """Constants of Prequal; the defaults are those of its paper.

    Attributes:
        pool: Probes that are kept at most.
        probes: Probes sent for each request; a fraction is made up over several requests.
        removals: Probes removed for each request: in turn the worst and the oldest.
        quantile: The quantile of recent requests in flight up to which a replica is cold.
        most_age: Seconds after which a probe is forgotten.
        growth: The net growth of the pool per request that the limit of uses leaves room for (the paper's delta).
        most_uses: Uses of one probe at most, whatever the formula for uses allows.
        recent: Answers of probes whose requests in flight give the quantile.
        idle_seconds: Time without a request after which one probe is sent.
    """

    pool: int = 16
    probes: float = 3.0
    removals: float = 1.0
    quantile: float = 0.84
    most_age: float = 1.0
    growth: float = 1.0
    most_uses: int = 16
    recent: int = 128
    idle_seconds: float = 0.1

    def __post_init__(self) -> None:
        check_count("pool", self.pool, 2)
        check_number("probes", self.probes, 0.0, above=True)
        check_number("removals", self.removals, 0.0)
        check_number("quantile", self.quantile, 0.0, 1.0)
        check_number("most_age", self.most_age, 0.0, above=True)
        check_number("growth", self.growth, 0.0)
        check_count("most_uses", self.most_uses)
        check_count("recent", self.recent)
        check_number("idle_seconds", self.idle_seconds, 0.0, above=True)


class Probe(Generic[R]):
    """A probe in the pool.

    Attributes:
        replica: The replica that answered.
        in_flight: Its requests in flight, and one more for each request that was sent on this probe.
        seconds: Its estimate of the latency.
        received: When the answer arrived.
        uses: Requests that were sent on this probe.
    """

    __slots__ = ("in_flight", "received", "replica", "seconds", "uses")

    def __init__(self, replica: R, in_flight: int, seconds: float, received: float) -> None:
        self.replica, self.in_flight, self.seconds, self.received = replica, in_flight, seconds, received
        self.uses = 0


class Prequal(Router[R]):
    """Chooses by probes. The owner sends the probes that `probe_targets` names, and gives the answers to `answered`.

    The pool holds one probe of a replica at most, the newest, so that few replicas do not fill it with old answers.
    """

    def __init__(self, replicas: Iterable[R], random: Random, config: PrequalConfig | None = None) -> None:
        self.config = config or PrequalConfig()
        self._random = random
        self._pool: dict[R, Probe[R]] = {}  # the oldest first
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []  # the same numbers
        self._owed = self._removable = 0.0
        self._worst_next = True
        self._last_sent = -math.inf
        self._most_uses = uses_of_a_probe(self.config)
        super().__init__(replicas)

    @property
    def pool(self) -> tuple[Probe[R], ...]:
        """The probes, the oldest first."""
        return tuple(self._pool.values())

    def probe_targets(self, now: float) -> list[R]:
        """Replicas to probe now, each drawn at random: those that the last requests ask for, or one after an idle time."""
        if self._owed < 1.0:
            if now - self._last_sent < self.config.idle_seconds:
                return []
            self._owed += 1.0
        replicas = self._replicas
        wanted = min(int(self._owed), len(replicas))
        self._owed -= int(self._owed)
        self._last_sent = max(now, self._last_sent)
        if 4 * wanted > len(replicas):
            return self._random.sample(replicas, wanted)
        places: set[int] = set()
        while len(places) < wanted:  # quicker than `sample` for few of many
            places.add(int(self._random.random() * len(replicas)))
        return [replicas[place] for place in places]

    def answered(self, replica: R, in_flight: int, seconds: float, now: float) -> None:
        """Takes the answer of a probe; without effect for a replica that was removed.

        Args:
            replica: The replica.
            in_flight: Its requests in flight, of all balancers.
            seconds: Its estimate of the latency of a request that arrives now (`ReplicaLoad.estimate`).
            now: The present time.
        """
        own = self._in_flight.get(replica)
        if own is None:
            return
        in_flight = max(
            in_flight, own
        )  # the answer does not count requests that were sent while the probe was on its way
        pool = self._pool
        if pool.pop(replica, None) is None and len(pool) >= self.config.pool:
            del pool[next(iter(pool))]
        pool[replica] = Probe(replica, in_flight, seconds, now)
        self._count(in_flight)

    def threshold(self) -> int:
        """Requests in flight up to which a replica is cold: the quantile of recent answers, by nearest rank."""
        rank = math.ceil(self.config.quantile * len(self._sorted))
        return self._sorted[max(rank, 1) - 1] if self._sorted else 0

    def _pick(self, now: float) -> R:
        pool = self._pool
        self._forget_old(now)
        self._owed += self.config.probes
        if len(pool) < min(_FEWEST, len(self._replicas)):
            return self._replicas[int(self._random.random() * len(self._replicas))]
        chosen = self._best()
        chosen.uses += 1
        chosen.in_flight += 1
        if chosen.uses >= self._most_uses:
            del pool[chosen.replica]
        self._remove_some()
        return chosen.replica

    def _observe(self, replica: R, seconds: float, now: float, ok: bool) -> None:
        probe = self._pool.get(replica)
        if probe is not None:
            probe.in_flight = max(probe.in_flight - 1, self._in_flight[replica])

    def _best(self) -> Probe[R]:
        """The cold probe with the lowest latency, or else the probe with the fewest requests in flight."""
        threshold = self.threshold()
        coldest: Probe[R] | None = None
        emptiest: Probe[R] | None = None
        for probe in self._pool.values():
            if probe.in_flight <= threshold:
                if coldest is None or (probe.seconds, probe.in_flight) < (coldest.seconds, coldest.in_flight):
                    coldest = probe
            elif emptiest is None or (probe.in_flight, probe.seconds) < (emptiest.in_flight, emptiest.seconds):
                emptiest = probe
        best = coldest or emptiest
        assert best is not None  # the pool is not empty
        return best

    def _worst(self) -> Probe[R]:
        """The hot probe with the most requests in flight, or else the cold probe with the highest latency."""
        threshold = self.threshold()
        hot = [probe for probe in self._pool.values() if probe.in_flight > threshold]
        if hot:
            return max(hot, key=lambda probe: probe.in_flight)
        return max(self._pool.values(), key=lambda probe: probe.seconds)

    def _remove_some(self) -> None:
        """Removes probes at the configured rate, in turn the worst and the oldest; two stay, so that there is a choice.

        A pool with a place for every replica loses none: no new probe needs the place, and each is renewed by the next of its replica.
        """
        if len(self._replicas) <= self.config.pool:
            return
        self._removable = min(self._removable + self.config.removals, float(self.config.pool))
        while self._removable >= 1.0 and len(self._pool) > _FEWEST:
            self._removable -= 1.0
            worst = self._worst().replica if self._worst_next else next(iter(self._pool))
            del self._pool[worst]
            self._worst_next = not self._worst_next

    def _forget_old(self, now: float) -> None:
        pool, oldest = self._pool, now - self.config.most_age
        while pool:
            replica = next(iter(pool))
            if pool[replica].received >= oldest:
                return
            del pool[replica]

    def _count(self, in_flight: int) -> None:
        if len(self._recent) >= self.config.recent:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(in_flight)
        insort(self._sorted, in_flight)

    def _forget(self, replica: R) -> None:
        self._pool.pop(replica, None)


def uses_of_a_probe(config: PrequalConfig) -> int:
    """How often a probe may be used: b = max(1, (1 + growth) / (probes - removals)), at most `most_uses`.

    The denominator is the number of probes per request that stay in the pool. If it is not above 0, the pool would run dry, and a probe
    is used `most_uses` times. The paper's denominator is `(1 - pool / replicas) * probes - removals`: there, a second probe of a replica
    in the pool is lost, while here it renews the first one. With fewer replicas than three pools, the paper's value lets balancers send
    many requests at once to the replica that looked best.
    """
    stay = config.probes - config.removals
    uses = (1.0 + config.growth) / stay if stay > 0.0 else math.inf
    return int(min(max(uses, 1.0), config.most_uses))
