"""`Workers`: the threads of an engine, and the thread that replaces those that hang or die."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from recfx.serve.engine.batch import Batch
from recfx.serve.engine.requests import Outcome, Request
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.outcomes import Reason, Rejected

_log = logging.getLogger("recfx.serve")

#: Calls that hang keep their threads; with this many of them for each worker, the model no longer counts as healthy.
_MOST_HUNG = 4


class Source(Protocol):
    """What workers need of their engine."""

    name: str
    clock: Callable[[], float]

    def take(self, free: Callable[[], bool]) -> Batch | None:
        """Waits for the next batch; None when the worker has to end."""
        ...

    def compute(self, batch: Batch) -> list[Outcome]:
        """The outcomes of a batch."""
        ...

    def report(self, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        """Reports outcomes, once for each request."""
        ...

    def again(self, requests: Sequence[Request]) -> list[Request]:
        """Puts requests back into the queue; returns those that have been there before."""
        ...


class _Worker:
    """A thread that runs batches.

    Attributes:
        batch: The requests that it runs; whoever takes them out of it under the lock reports their outcome.
        begun: When it took them.
        lost: Whether it hangs and has been replaced.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.batch: Sequence[Request] | None = None
        self.begun = 0.0
        self.expected = 0.0
        self.lost = False
        self.thread: threading.Thread


class Workers:
    """The threads of an engine.

    Args:
        engine: Gives batches, computes them, and takes the outcomes.
        settings: The number of threads, and the time after which a call counts as hung.
    """

    def __init__(self, engine: Source, settings: EngineSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._running: list[_Worker] = []
        self._lost: list[_Worker] = []
        self._ended = threading.Event()
        for _ in range(settings.workers):
            self._start()
        self._watch = threading.Thread(target=self._watch_calls, name=f"recfx-{engine.name}-watch", daemon=True)
        self._watch.start()

    @property
    def busy(self) -> int:
        """Calls that run, without those that hang."""
        return sum(worker.batch is not None for worker in self._running)

    @property
    def healthy(self) -> bool:
        """Whether few calls hang."""
        return len(self._lost) < _MOST_HUNG * self._settings.workers

    def first_free(self, now: float) -> float:
        """When the first worker is expected to be free; `now` if one is."""
        ends = [now if worker.batch is None else worker.expected for worker in self._running]
        return min(ends, default=now)

    def join(self, seconds: float) -> bool:
        """Waits for the threads to end; whether all of them did."""
        until = time.monotonic() + seconds
        for worker in list(self._running):
            worker.thread.join(max(until - time.monotonic(), 0.0))
        self._ended.set()
        return not any(worker.thread.is_alive() for worker in self._running)

    def abandon(self, outcome: Rejected) -> None:
        """Answers the requests of calls that have not ended."""
        for worker in list(self._running):
            batch = self._claim(worker)
            if batch:
                self._engine.report(batch, [outcome] * len(batch))

    def _start(self) -> None:
        worker = _Worker(f"recfx-{self._engine.name}-{next(self._numbers)}")
        worker.thread = threading.Thread(target=self._run, args=(worker,), name=worker.name, daemon=True)
        self._running.append(worker)
        worker.thread.start()

    def _claim(self, worker: _Worker) -> Sequence[Request] | None:
        """The batch of a worker, for the one caller that reports its outcome."""
        with self._lock:
            batch, worker.batch = worker.batch, None
        return batch

    def _run(self, worker: _Worker) -> None:
        try:
            self._work(worker)
        except BaseException as error:  # noqa: BLE001 - the thread ends: its requests run elsewhere, and it is replaced
            self._died(worker, error)

    def _work(self, worker: _Worker) -> None:
        engine = self._engine
        torch.set_num_threads(self._settings.threads)
        with torch.inference_mode():
            while (batch := engine.take(lambda: not worker.lost)) is not None:
                worker.begun = engine.clock()
                worker.expected = worker.begun + batch.decision.predicted
                worker.batch = batch.requests
                outcomes = engine.compute(batch)
                requests = self._claim(worker)
                if requests is not None:
                    engine.report(requests, outcomes)

    def _died(self, worker: _Worker, error: BaseException) -> None:
        """Replaces a worker whose thread ends by an error outside the model's own, and runs its requests once more."""
        _log.error("a worker of model %s died", self._engine.name, exc_info=error)
        batch = self._claim(worker) or []
        self._replace(worker)
        failed = self._engine.again(batch)
        outcome = Rejected(
            Reason.FAILED,
            f"two workers died while they ran the request: {type(error).__name__}",
            where=f"model {self._engine.name}",
            hint="the log of the server has the traceback",
        )
        self._engine.report(failed, [outcome] * len(failed))

    def _replace(self, worker: _Worker) -> None:
        if worker in self._running:
            self._running.remove(worker)
        if not self._ended.is_set():
            self._start()

    def _watch_calls(self) -> None:
        """Answers the requests of calls that hang, and replaces their workers."""
        limit = self._settings.call_seconds
        while not self._ended.wait(min(limit / 4, 1.0)):
            now = self._engine.clock()
            for worker in list(self._running):
                if worker.batch is None or now - worker.begun < limit:
                    continue
                batch = self._claim(worker)
                if batch is None:
                    continue
                worker.lost = True
                self._lost.append(worker)
                _log.error(
                    "a call of model %s has not ended after %g s; its worker is replaced", self._engine.name, limit
                )
                self._replace(worker)
                outcome = Rejected(
                    Reason.FAILED,
                    f"the call of the model did not end in {limit:g} s",
                    where=f"model {self._engine.name}",
                    hint="send fewer rows, or raise call_seconds",
                )
                self._engine.report(batch, [outcome] * len(batch))
            self._lost = [worker for worker in self._lost if worker.thread.is_alive()]
