"""`Replica`: one process of a deployment: the engine with its queue, its batches and its worker threads."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from recfx.errors import RecfxError
from recfx.serve.bridge import Bridge
from recfx.serve.calls import infer
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.models import Models, Source
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.replica_load import ReplicaLoad
from recfx.serve.ray.refusals import Refusal, refusal_of
from recfx.serve.updates import UpdateSettings

#: What was asked for, or a refusal.
Answer = tuple[Any, Refusal | None]


class Replica:
    """One process of a deployment; Ray Serve makes it and calls its methods.

    Args:
        models: Name and variants of each model. The folders must be at the same paths on every machine.
        settings: Limits and threads of each model.
        updates: How new rows of tables are kept; None if none are taken. Who may send them is checked in front of the replicas.
    """

    def __init__(
        self,
        models: Sequence[tuple[str, Sequence[Source]]],
        settings: EngineSettings,
        updates: UpdateSettings | None = None,
    ) -> None:
        everyone = None if updates is None else dataclasses.replace(updates, tenants=frozenset())
        self._models = Models(settings, updates=everyone)
        self._loaded: dict[str, list[Variant]] = {}
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
            return None, refusal_of(error)
        now = time.monotonic()
        self._load.finished(arrived, now - begun, now)
        return [output.clone() for output in outputs], None

    async def update(self, model: str, tensors: Mapping[str, Any]) -> Answer:
        """Writes a change to the journal and makes it visible here.

        Args:
            model: The name of the model.
            tensors: See `TableUpdates.apply`.

        Returns:
            The changes so far, the rows of this one, and the digest of the saved model.
        """
        return await asyncio.to_thread(_answered, self._update, model, tensors)

    def _update(self, model: str, tensors: Mapping[str, Any]) -> tuple[int, int, str]:
        engine = self._models.get(model)
        given = {name: torch.as_tensor(value) for name, value in tensors.items()}
        found = self._models.updates.apply(engine, given, "")
        return found["table_version"], found["rows"], engine.variants[0].digest

    async def follow(self, model: str) -> Answer:
        """Applies the changes of other replicas now; the digest of the saved model, and the number of changes so far."""
        return await asyncio.to_thread(_answered, self._follow, model)

    def _follow(self, model: str) -> tuple[str, int]:
        first, *others = self._models.get(model).variants
        for each in (first, *others):
            each.interface.updates.follow()
        return first.digest, first.interface.updates.document()["table_version"]

    async def tables(self, model: str) -> Answer:
        """What can be changed in a model."""
        return await asyncio.to_thread(_answered, lambda: self._models.get(model).variant.interface.updates.document())

    async def load_again(self, model: str) -> Answer:
        """Loads the folders of a model again, for `serve_again`."""
        return await asyncio.to_thread(_answered, self._load_again, model)

    def _load_again(self, model: str) -> None:
        self._loaded.pop(model, None)
        self._loaded[model] = self._models.loaded_again(model)

    async def serve_again(self, model: str) -> Answer:
        """Serves what `load_again` loaded. A replica that began after that has loaded it at its start."""
        return await asyncio.to_thread(_answered, self._serve_again, model)

    def _serve_again(self, model: str) -> None:
        loaded = self._loaded.pop(model, None)
        if loaded is not None:
            self._models.get(model).replace(loaded)

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


def _answered(function: Callable[..., Any], *arguments: Any) -> Answer:
    """What a function returns, or its refusal."""
    try:
        return function(*arguments), None
    except RecfxError as error:
        return None, refusal_of(error)
