"""What a replica answers to a probe: its requests in flight, and an estimate of the latency at that number.

Prequal (NSDI 2024), section 4: the latency of each request is recorded with the number of requests in flight at its arrival, and the
estimate is the median of recent latencies at, or close to, the present number.
"""

from __future__ import annotations

from collections import deque

from recfx.serve.policies._checks import check_count, check_number

#: Numbers of requests in flight from here on share one record.
_MOST = 64


class ReplicaLoad:
    """Requests in flight at one replica, of all balancers, and their latencies.

    An estimate halves in `half_life` seconds without a new latency: a replica that was slow receives a few requests again, and
    its estimate follows them.

    Args:
        samples: Latencies that are kept for each number of requests in flight.
        half_life: Seconds.

    Attributes:
        in_flight: Requests that have arrived and are not finished.
    """

    __slots__ = ("_half_life", "_medians", "_recent", "_samples", "in_flight")

    def __init__(self, samples: int = 7, half_life: float = 10.0) -> None:
        check_count("samples", samples)
        check_number("half_life", half_life, 0.0, above=True)
        self._samples, self._half_life = samples, half_life
        self._recent: dict[int, deque[float]] = {}
        self._medians: dict[int, tuple[float, float]] = {}  # the median, and when the last latency was recorded
        self.in_flight = 0

    def arrived(self) -> int:
        """Counts a request; its return value belongs to the call of `finished` for the same request."""
        before = self.in_flight
        self.in_flight = before + 1
        return before

    def finished(self, at_arrival: int, seconds: float, now: float) -> None:
        """Records the latency of a request.

        Args:
            at_arrival: What `arrived` returned.
            seconds: The time since its arrival.
            now: The present time.
        """
        self.in_flight = max(self.in_flight - 1, 0)
        key = min(at_arrival, _MOST)
        recent = self._recent.get(key)
        if recent is None:
            recent = self._recent[key] = deque(maxlen=self._samples)
        recent.append(seconds)
        self._medians[key] = (sorted(recent)[len(recent) // 2], now)

    def dropped(self) -> None:
        """Counts a request out that ended without an answer: rejected, cancelled or failed."""
        self.in_flight = max(self.in_flight - 1, 0)

    def estimate(self, now: float) -> float:
        """Seconds that a request that arrives now takes, as recent latencies say; 0 before the first one."""
        medians = self._medians
        wanted = min(self.in_flight, _MOST)
        held = medians.get(wanted)
        if held is None:
            if not medians:
                return 0.0
            held = medians[min(medians, key=lambda known: abs(known - wanted))]
        age = now - held[1]
        return held[0] if age <= 0.0 else float(held[0] * 0.5 ** (age / self._half_life))
