"""`PolicyRouter`: the routing policies of recfx as a request router of Ray Serve."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from recfx.serve.policies.prequal import Prequal
from recfx.serve.policies.routing import LeastInFlight, PeakEwma, PowerOfTwo, RoundRobin, Router

#: A probe without an answer is forgotten after this time, in seconds.
_PROBE_SECONDS = 1.0

POLICIES: dict[str, Callable[[random.Random], Router[ReplicaID]]] = {
    "least-in-flight": lambda _: LeastInFlight([]),
    "peak-ewma": lambda draw: PeakEwma([], draw),
    "power-of-two": lambda draw: PowerOfTwo([], draw),
    "prequal": lambda draw: Prequal([], draw),
    "round-robin": lambda _: RoundRobin([]),
}


class PolicyRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Chooses replicas by a policy of `recfx.serve.policies`. If the chosen one is full, Ray takes the emptiest of the others."""

    def initialize_state(self, policy: str = "peak-ewma", seed: int | None = None) -> None:
        """Called by Ray Serve with `request_router_kwargs`.

        Args:
            policy: A key of `POLICIES`.
            seed: For the policies that draw replicas at random; None for another one each time.
        """
        self._guard = threading.Lock()
        self._policy = POLICIES[policy](random.Random(seed))
        self._sent: dict[str, tuple[ReplicaID, float]] = {}
        self._probes: set[asyncio.Task[None]] = set()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The chosen replica, and then the others."""
        known = {replica.replica_id: replica for replica in candidate_replicas}
        if not known:
            return []
        now = time.monotonic()
        with self._guard:
            for name in set(self._policy.replicas) - known.keys():
                self._policy.remove(name)
            for name in known.keys() - set(self._policy.replicas):
                self._policy.add(name)
            chosen = self._policy.preferred(now)
            targets = self._policy.probe_targets(now) if isinstance(self._policy, Prequal) else []
        for target in targets:
            task = asyncio.create_task(self._probe(known[target]))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)
        others = [replica for name, replica in known.items() if name != chosen]
        return [[known[chosen]], others] if others else [[known[chosen]]]

    async def _probe(self, replica: RunningReplica) -> None:
        """Asks a replica for its requests in flight; its latency is the one that it reported last."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                in_flight = await replica.get_queue_len(deadline_s=_PROBE_SECONDS)
        except (RayActorError, TimeoutError):
            return  # Ray Serve finds out whether it has died
        seconds = float(replica.routing_stats.get("seconds", 0.0))
        with self._guard:
            assert isinstance(self._policy, Prequal)
            self._policy.answered(replica.replica_id, in_flight, seconds, time.monotonic())

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Counts a request that a replica has accepted."""
        with self._guard:
            self._policy.sent(replica_id)
            self._sent[pending_request.metadata.internal_request_id] = replica_id, time.monotonic()

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Records the latency of a request."""
        now = time.monotonic()
        with self._guard:
            sent = self._sent.pop(internal_request_id, None)
            if sent is not None and sent[0] == replica_id:
                self._policy.finished(replica_id, now - sent[1], now)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Sends no more requests to a replica."""
        super().on_replica_actor_died(replica_id)
        with self._guard:
            self._policy.remove(replica_id)


def configured(policy: str) -> dict[str, Any]:
    """The arguments of `RequestRouterConfig` for a policy."""
    return {
        "request_router_class": f"{__name__}:{PolicyRouter.__name__}",
        "request_router_kwargs": {"policy": policy},
        "request_routing_stats_period_s": 1.0,
    }
