"""`Engine`: one model behind a bounded queue, with threads that run batches of its requests.

A request is checked and admitted in the thread that brings it, waits in the order of deadlines, and is answered in a worker's thread. The
policies of `recfx.serve.policies` decide; this file holds the lock and asks them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from recfx.errors import InputError
from recfx.serve.engine.batch import Batch
from recfx.serve.engine.call import Call
from recfx.serve.engine.requests import Outcome, Request, RequestQueue
from recfx.serve.engine.scheduling import Scheduling
from recfx.serve.engine.served import difference
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.statistics import Statistics
from recfx.serve.engine.trace import CallTimes, Trace
from recfx.serve.engine.variants import Variant
from recfx.serve.engine.workers import Workers
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.tenants import TenantConfig

_log = logging.getLogger("recfx.serve")


class EngineLoad(NamedTuple):
    """What arrives at an engine, and what it can answer.

    Attributes:
        rows_per_second: Rows that arrive in a second.
        waiting_rows: Rows in its queue.
        capacity: Rows per second that its workers can compute.
    """

    rows_per_second: float
    waiting_rows: int
    capacity: float


class Engine:
    """One model behind a bounded queue, with threads that run batches of its requests.

    Args:
        name: The name of the model.
        variants: Its compiled forms, the best first; each takes and returns the same tensors.
        settings: Limits and threads.
        tenants: Limits per tenant; None for no limits.
        clock: Seconds of a clock that does not jump.

    Attributes:
        statistics: Counts and times; read them inside `with engine.lock`.
        version: Rises by one at each `replace`.

    Raises:
        InputError: The variants take or return different tensors.
    """

    def __init__(
        self,
        name: str,
        variants: Sequence[Variant],
        settings: EngineSettings | None = None,
        *,
        tenants: TenantConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.settings = settings or EngineSettings()
        self.statistics = Statistics()
        self.version = 1
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self.clock = clock
        self._queue = RequestQueue()
        self._divided: list[Call] = []
        self._idle = 0
        self._threads = threading.local()
        self._scheduling = Scheduling(name, variants, self.settings, tenants, clock())
        self._closing = False
        self._workers = Workers(self, self.settings)

    @property
    def variant(self) -> Variant:
        """The variant that calls use at present."""
        return self._scheduling.variant

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants, the best first."""
        return self._scheduling.variants

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._workers.busy

    @property
    def healthy(self) -> bool:
        """Whether requests are taken, and not all workers were lost to calls that hang."""
        return not self._closing and self._workers.healthy

    def load(self) -> EngineLoad:
        """Its present load and capacity."""
        with self.lock:
            rate, most = self._scheduling.offered(self.clock()), self._scheduling.capacity()
            return EngineLoad(rate, self._queue.rows, most)

    def submit(
        self,
        tensors: Mapping[str, torch.Tensor],
        finish: Callable[[Outcome], None],
        *,
        timeout: float | None = None,
        tenant: str = "",
        here: bool = False,
        trace: Trace | None = None,
    ) -> Request:
        """Checks a request and puts it into the queue, or runs it at once.

        Args:
            tensors: Name -> tensor. They must not change until the request is answered.
            finish: Takes the outcome, once, in another thread. It must not block.
            timeout: Seconds until its answer must be there; by default that of the settings. It is not admitted if the answer would take
                longer by the measured times; what `grace` of the settings says holds for it after that.
            tenant: Who sends it.
            here: Whether it may run in this thread, if that takes less than `here_seconds` and a worker is free. Then `finish` is called
                before this function returns, and torch uses as many threads in this one as in workers.
            trace: What wants to know the times of the request.

        Returns:
            The request, for `cancel`.

        Raises:
            Rejected: It does not fit the model, or is not admitted.
        """
        now = self.clock()
        try:
            interface = self.variant.interface
            leaves = interface.leaves(tensors)
            rows = interface.rows(leaves)
            if rows > self.settings.most_rows:
                raise Rejected(
                    Reason.TOO_LARGE,
                    f"the request has {rows} rows, and at most {self.settings.most_rows} are allowed",
                    where=f"model {self.name}",
                    hint="divide it into several requests",
                )
        except InputError as error:
            raise self._rejected(Rejected(Reason.INVALID, error.what, where=error.where, hint=error.hint)) from error
        except Rejected as error:
            raise self._rejected(error) from None
        seconds = self.settings.timeout if timeout is None else timeout
        deadline = math.inf if seconds is None else now + seconds
        request = Request(leaves, rows, now, deadline, finish, tenant, trace=trace)
        with self._changed:
            refusal = self._refusal(request, now)
            if refusal is not None:
                self.statistics.reject(refusal.reason, now, str(self.version))
                raise refusal
            call = self._call_here(request, now) if here and self._idle and not self._queue else None
            if call is None:
                self._queue.add(request)
                self._changed.notify()
        if call is not None:
            self._run_here(call)
        return request

    def _call_here(self, request: Request, now: float) -> Call | None:
        """The call of a request that the present thread runs; None if a worker should run it."""
        decision = self._scheduling.runs_here(request)
        return None if decision is None else Call(Batch([request], self.variant, decision), ((0, request.rows),), now)

    def _run_here(self, call: Call) -> None:
        """Runs a call in the present thread. An error that would end a worker gives the request to a worker."""
        if not getattr(self._threads, "set", False):
            torch.set_num_threads(self.settings.threads)
            self._threads.set = True
        try:
            with torch.inference_mode():
                call.run(0, self.name)
        except BaseException as error:  # noqa: BLE001 - a worker runs it once more, and reports what it finds
            _log.error("a call of model %s ended early", self.name, exc_info=error)
            self.again(call.batch.requests)
            return
        self._finish(call)

    def _rejected(self, error: Rejected) -> Rejected:
        with self.lock:
            self.statistics.reject(error.reason, self.clock(), str(self.version))
        return error

    def _refusal(self, request: Request, now: float) -> Rejected | None:
        """Why a request is not admitted; None if it is."""
        if self._closing:
            return Rejected(
                Reason.CLOSING,
                "the server is being shut down",
                where=f"model {self.name}",
                hint="send it to another server",
            )
        return self._scheduling.refusal(request, self._queue, self._workers.first_free(now), now, self._idle)

    def cancel(self, request: Request) -> None:
        """Forgets a request whose client has left: it is not computed if it still waits, and its outcome is not reported."""
        with self.lock:
            request.cancelled = True
            if self._queue.discard(request):
                self.statistics.reject(Reason.CANCELLED, self.clock(), str(self.version))

    def take(self, free: Callable[[], bool]) -> tuple[Call, int] | None:
        """Waits for the next call, or for a part of one. Called by workers.

        Args:
            free: Whether the worker may still take one.

        Returns:
            The call and the number of its part; None when the worker has to end.
        """
        while True:
            late: list[Request] = []
            with self._changed:
                found = self._next(late) if free() else None
                if found is None and not late:
                    return None
            for request in late:
                request.finish(
                    Rejected(
                        Reason.GIVEN_UP, "the deadline passed while the request waited", where=f"model {self.name}"
                    )
                )
            if found is not None:
                return found

    def _next(self, late: list[Request]) -> tuple[Call, int] | None:
        """Waits under the lock until a call is due or requests are too late, which are added to `late`."""
        while True:
            now = self.clock()
            if (part := self._part_of_other(now)) is not None:
                return part
            decision = self._scheduling.next_batch(self._queue, now, self._idle + 1)
            if decision.drop:
                late += self._queue.take(decision.drop)
                for _ in late:
                    self.statistics.reject(Reason.GIVEN_UP, now, str(self.version))
            if decision.take:
                batch = Batch(self._queue.take(decision.take), self.variant, decision)
                if self._queue:
                    self._changed.notify()
                call = self._scheduling.call(batch, self._idle + 1, len(self._queue), now)
                first = call.next_part(now)
                assert first is not None
                return call, first
            if late or (self._closing and not self._queue):
                return None
            until = decision.wait_until
            self._wait(None if until is None else max(until - now, 0.0))
            if self._closing and not self._queue:
                return None

    def _part_of_other(self, now: float) -> tuple[Call, int] | None:
        """A part of a call that another worker has begun."""
        for call in self._divided:
            if (part := call.next_part(now)) is not None:
                return call, part
        self._divided.clear()
        return None

    def _wait(self, seconds: float | None) -> None:
        """Waits for a change as an idle worker."""
        workers, busy = self.settings.workers, self._scheduling.busy
        self._idle += 1
        busy.changed(max(workers - self._idle, 0), self.clock())
        try:
            self._changed.wait(seconds)
        finally:
            self._idle -= 1
            busy.changed(max(workers - self._idle, 0), self.clock())

    def run(self, call: Call, part: int) -> None:
        """Runs a part of a call and then those that no other worker takes, and reports the outcome with the last of them.

        Called by workers.
        """
        if part == 0 and call.parts > 1:
            self._divide(call)
        next_part: int | None = part
        while next_part is not None:
            part = next_part
            outputs = call.run(part, self.name)
            with self.lock:
                call.ended(part, outputs)
                next_part = call.next_part(self.clock())
                last = call.complete and not call.claimed
        if last:
            self._finish(call)

    def _divide(self, call: Call) -> None:
        """Offers the parts of a call to the workers that wait."""
        ready = call.prepare(self.name)
        with self._changed:
            if not ready:
                call.stop()
                return
            self.statistics.divided += 1
            self._divided.append(call)
            self._changed.notify(call.waiting)

    def _finish(self, call: Call) -> None:
        """Reports the outcome of a call of which no part runs."""
        outcomes, batch = call.outcomes(self.name), call.batch
        now = self.clock()
        waited = [call.begun - request.arrived for request in batch.requests]
        with self.lock:
            self.statistics.batch(batch.rows, waited, now - call.begun, now, str(self.version))
            self._scheduling.finished(batch, now - call.begun)
            requests = call.claim()
        if requests is not None:
            self._trace(call, now)
            self.report(requests, outcomes)

    @staticmethod
    def _trace(call: Call, now: float) -> None:
        """Gives the times of a call to the traces of its requests."""
        batch, times = call.batch, None
        for request in batch.requests:
            if request.trace is not None:
                if times is None:
                    about = len(batch.requests), batch.rows, call.parts, batch.variant.name
                    times = CallTimes(call.begun, now, batch.runs, *about)
                request.trace.computed(request.arrived, request.rows, times)

    def report(self, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        """Counts and reports outcomes. Called by workers, once for each request."""
        now = self.clock()
        with self.lock:
            for request, outcome in zip(requests, outcomes, strict=True):
                if request.cancelled:
                    self.statistics.reject(Reason.CANCELLED, now, str(self.version))
                elif isinstance(outcome, Rejected):
                    self.statistics.reject(outcome.reason, now, str(self.version))
                else:
                    late = now > request.deadline
                    self.statistics.answer(request.arrived, now, request.rows, str(self.version), late=late)
        for request, outcome in zip(requests, outcomes, strict=True):
            if not request.cancelled:
                request.finish(outcome)

    def again(self, requests: Sequence[Request]) -> list[Request]:
        """Puts the requests of a worker that died back into the queue, each once; returns those that have been there before."""
        retried = [request for request in requests if not request.tried]
        with self._changed:
            self.statistics.replaced_workers += 1
            self.statistics.retried += len(retried)
            for request in retried:
                request.tried += 1
                self._queue.add(request)
            self._changed.notify_all()
        return [request for request in requests if request not in retried]

    def replace(self, variants: Sequence[Variant]) -> None:
        """Serves other variants from now on. Requests that wait run with the new ones; calls that run end with the old ones.

        Raises:
            InputError: The new variants take or return other tensors than the present ones, which go on.
        """
        for new in variants:
            self.require_same(new)
        with self._changed:
            self._scheduling.install(variants)
            self.version += 1

    def require_same(self, new: Variant) -> None:
        """Checks that a variant takes and returns the tensors of the present ones.

        Raises:
            InputError: It does not.
        """
        if other := difference(self.variant.interface, new.interface):
            raise InputError(
                f"the new model has another interface: {other}",
                where=f"model {self.name}, variant {new.name}",
                hint="serve it under another name",
            )

    def close(self, seconds: float = 10.0) -> bool:
        """Takes no more requests, answers those that wait, and ends the workers.

        Args:
            seconds: Time to answer them; then the rest is rejected.

        Returns:
            Whether all requests were answered.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        ended = self._workers.join(seconds)
        with self._changed:
            left = self._queue.take(len(self._queue))
        outcome = Rejected(Reason.CLOSING, "the server is being shut down", where=f"model {self.name}")
        self.report(left, [outcome] * len(left))
        self._workers.abandon(outcome)
        return ended and not left
