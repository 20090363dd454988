"""`Workers`: the threads of an engine, and the thread that replaces those that hang or die."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from recfx.serve.engine.call import Call
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
    lock: threading.Lock

    def take(self, free: Callable[[], bool]) -> tuple[Call, int] | None:
        """Waits for the next part of a call; None when the worker has to end."""
        ...

    def run(self, call: Call, part: int) -> None:
        """Runs a part of a call."""
        ...

    def report(self, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        """Reports outcomes, once for each request."""
        ...

    def again(self, requests: Sequence[Request]) -> list[Request]:
        """Puts requests back into the queue; returns those that have been there before."""
        ...


class _Worker:
    """A thread that runs calls, or parts of them.

    Attributes:
        call: The call that it runs; None while it waits.
        begun: When it began with that.
        expected: When the call is expected to end.
        lost: Whether it hangs and has been replaced.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.call: Call | None = None
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
        return len({id(call) for worker in self._running if (call := worker.call) is not None})

    @property
    def healthy(self) -> bool:
        """Whether few calls hang."""
        return len(self._lost) < _MOST_HUNG * self._settings.workers

    def first_free(self, now: float) -> float:
        """When the first worker is expected to be free; `now` if one is."""
        ends = [now if worker.call is None else worker.expected for worker in self._running]
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
            requests = self._claim(worker.call)
            if requests:
                self._engine.report(requests, [outcome] * len(requests))

    def _start(self) -> None:
        worker = _Worker(f"recfx-{self._engine.name}-{next(self._numbers)}")
        worker.thread = threading.Thread(target=self._run, args=(worker,), name=worker.name, daemon=True)
        self._running.append(worker)
        worker.thread.start()

    def _claim(self, call: Call | None) -> Sequence[Request] | None:
        """The requests of a call, for the one caller that reports their outcome. Parts that have not begun are left out."""
        if call is None:
            return None
        with self._engine.lock:
            call.stop()
            return call.claim()

    def _run(self, worker: _Worker) -> None:
        try:
            self._work(worker)
        except BaseException as error:  # noqa: BLE001 - the thread ends: its requests run elsewhere, and it is replaced
            self._died(worker, error)

    def _work(self, worker: _Worker) -> None:
        engine = self._engine
        torch.set_num_threads(self._settings.threads)
        with torch.inference_mode():
            while (taken := engine.take(lambda: not worker.lost)) is not None:
                call, part = taken
                worker.begun = engine.clock()
                worker.expected = worker.begun + call.seconds
                worker.call = call
                engine.run(call, part)
                worker.call = None

    def _died(self, worker: _Worker, error: BaseException) -> None:
        """Replaces a worker whose thread ends by an error outside the model's own, and runs its requests once more."""
        _log.error("a worker of model %s died", self._engine.name, exc_info=error)
        requests = self._claim(worker.call) or []
        self._replace(worker)
        failed = self._engine.again(requests)
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
                call = worker.call
                if call is not None and now - worker.begun >= limit:
                    self._give_up(worker, call)
            self._lost = [worker for worker in self._lost if worker.thread.is_alive()]

    def _give_up(self, worker: _Worker, call: Call) -> None:
        """Replaces a worker that hangs, and answers the requests of its call."""
        requests = self._claim(call)
        limit = self._settings.call_seconds
        if worker.call is call:  # otherwise it has ended after all
            worker.lost = True
            self._lost.append(worker)
            _log.error("a call of model %s has not ended after %g s; its worker is replaced", self._engine.name, limit)
            self._replace(worker)
        if requests is not None:
            outcome = Rejected(
                Reason.FAILED,
                f"the call of the model did not end in {limit:g} s",
                where=f"model {self._engine.name}",
                hint="send fewer rows, or raise call_seconds",
            )
            self._engine.report(requests, [outcome] * len(requests))
