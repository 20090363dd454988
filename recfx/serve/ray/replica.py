"""`Replica`: one process of a deployment: the engine with its queue, its batches and its worker threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recfx.serve.bridge import Bridge
from recfx.serve.calls import infer
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.models import Models, Source
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.replica_load import ReplicaLoad

#: Output tensors, or the fields of `Rejected`, whose arguments a pickled error would lose.
Answer = tuple[list[torch.Tensor] | None, tuple[str, str, str | None, str | None] | None]


class Replica:
    """One process of a deployment; Ray Serve makes it and calls its methods.

    Args:
        models: Name and variants of each model. The folders must be at the same paths on every machine.
        settings: Limits and threads of each model.
    """

    def __init__(self, models: Sequence[tuple[str, Sequence[Source]]], settings: EngineSettings) -> None:
        self._models = Models(settings)
        for name, sources in models:
            self._models.add(list(sources), name)
        self._load = ReplicaLoad()
        self._bridge: Bridge | None = None

    async def infer(self, model: str, tensors: Mapping[str, Any], timeout: float | None = None) -> Answer:
        """Answers a request. Requests that wait together share a call of the model.

        Args:
            model: The name of the model.
            tensors: Input -> tensor or NumPy array.
            timeout: Seconds until the answer must be there; by default that of the settings.

        Returns:
            The outputs in the order of the model, and None; or None and reason, fault, place and next step of a refusal.
        """
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
        arrived, begun = self._load.arrived(), time.monotonic()
        try:
            given = {name: torch.as_tensor(value) for name, value in tensors.items()}
            outputs = await infer(self._models.get(model), self._bridge, given, timeout=timeout)
        except BaseException as error:
            self._load.dropped()
            if not isinstance(error, Rejected):
                raise
            return None, (error.reason.value, error.what, error.where, error.hint)
        now = time.monotonic()
        self._load.finished(arrived, now - begun, now)
        return [output.clone() for output in outputs], None

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `ScalingPolicy` reads: rows that arrive in a second, rows that wait, and rows per second that the replica can compute."""
        loads = [engine.load() for engine in self._models]
        use = sum(load.rows_per_second / load.capacity for load in loads)
        waiting = sum(load.waiting_rows / load.capacity for load in loads)
        return {"use": use, "waiting_seconds": waiting}

    def record_routing_stats(self) -> dict[str, float]:
        """What the router reads: requests in flight, and the latency of a request that arrives now."""
        return {"in_flight": self._load.in_flight, "seconds": self._load.estimate(time.monotonic())}

    def check_health(self) -> None:
        """Raises an error if a model does not answer, so that Ray Serve replaces the replica.

        Raises:
            Rejected: All workers of a model hang.
        """
        for engine in self._models:
            if not engine.healthy:
                raise Rejected(Reason.FAILED, "calls of the model hang", where=f"model {engine.name}")

    def __del__(self) -> None:
        models = getattr(self, "_models", None)  # missing if a model could not be loaded
        if models is not None:
            models.close()
