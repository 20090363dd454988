"""A simulated balancer: a router, and the probes that Prequal sends."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

from recfx.serve.policies import Prequal
from recfx.serve.simulator.fleet import Replica
from recfx.serve.simulator.scenario import Scenario


class Balancer:
    """Routes requests to replicas.

    A probe reads its replica when it is sent and is known `probe_seconds` later: its answer is as old as the whole way, which is the
    worst case of a probe of that time.

    Args:
        number: Its number; the router's random generator is seeded by it and the scenario's seed.
        scenario: What is simulated.
        replicas: All replicas, by number; the list may grow.

    Attributes:
        router: Its router.
    """

    def __init__(self, number: int, scenario: Scenario, replicas: Sequence[Replica]) -> None:
        random = Random(f"{scenario.seed} {number}")
        self.router = scenario.policies.router(range(len(replicas)), random)
        self._replicas = replicas
        self._delay = scenario.probe_seconds
        self._answers: deque[tuple[float, int, int, float]] = deque()  # when known, replica, in flight, latency

    def choose(self, now: float, avoid: int | None = None) -> int:
        """The number of the replica for a request.

        Raises:
            LookupError: All replicas are excluded.
        """
        router = self.router
        if not isinstance(router, Prequal):
            return router.choose(now, avoid)
        answers = self._answers
        while answers and answers[0][0] <= now:
            _, replica, in_flight, seconds = answers.popleft()
            router.answered(replica, in_flight, seconds, now)
        chosen: int = router.choose(now, avoid)
        for target in router.probe_targets(now):
            probed = self._replicas[target]
            if probed.alive:
                answers.append((now + self._delay, target, probed.load.in_flight, probed.load.estimate(now)))
        return chosen
