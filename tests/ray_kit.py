"""Replicas in this process behind a handle like that of Ray Serve: everything is real but the way between processes."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recfx.serve import EngineSettings, Source, UpdateSettings
from recfx.serve.ray.replica import Replica


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any, seconds: float | None = 60.0) -> Any:
        """The value of a coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def close(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Method:
    def __init__(self, handle: LocalHandle, name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *arguments: Any) -> _Response:
        return _Response(self._handle, self._name, arguments)


class _Response:
    def __init__(self, handle: LocalHandle, name: str, arguments: tuple[Any, ...]) -> None:
        self._handle, self._name, self._arguments = handle, name, arguments

    def result(self, timeout_s: float | None = 60.0) -> Any:
        """The answer of the next replica."""
        if self._handle.errors:
            raise self._handle.errors.pop(0)
        replica = next(self._handle.turns)
        return self._handle.loop.run(getattr(replica, self._name)(*self._arguments), timeout_s)

    def results(self, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """The answers of all replicas, and those of lost ones."""
        assert return_exceptions
        found = [
            self._handle.loop.run(getattr(r, self._name)(*self._arguments), timeout_s) for r in self._handle.replicas
        ]
        return [*found, *self._handle.lost]


class LocalHandle:
    """A handle of replicas in this process, which take requests in turn.

    Attributes:
        replicas: The replicas.
        errors: Errors that the next requests end with, in order.
        lost: Errors that each broadcast finds, beside the answers.
    """

    def __init__(self, replicas: Sequence[Any], loop: Loop) -> None:
        self.replicas, self.loop = list(replicas), loop
        self.turns = itertools.cycle(self.replicas)
        self.errors: list[Exception] = []
        self.lost: list[Exception] = []

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def broadcast(self, method: str, *arguments: Any) -> _Response:
        """Calls a method of all replicas."""
        return _Response(self, method, arguments)


@contextmanager
def replicas(folders: Sequence[Mapping[str, Path]], updates: UpdateSettings | None = None) -> Iterator[LocalHandle]:
    """A handle of replicas, one for each mapping of models to folders."""
    loop = Loop()
    made = [
        Replica([(name, [Source(path)]) for name, path in models.items()], EngineSettings(workers=1), updates)
        for models in folders
    ]
    try:
        yield LocalHandle(made, loop)
    finally:
        for each in made:
            each._models.close()
        loop.close()
