"""`Bridge`: outcomes that worker threads report, as awaitable values of one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from recfx.serve.engine.requests import Outcome


class Bridge:
    """Outcomes of worker threads for an event loop.

    A call into the loop from another thread costs a system call; outcomes that arrive together share one.

    Args:
        loop: The event loop; it runs in the present thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[tuple[asyncio.Future[Outcome], Outcome]] = deque()
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._called = False

    def future(self) -> tuple[asyncio.Future[Outcome], Callable[[Outcome], None]]:
        """An awaitable outcome, and the function that reports it, from any thread."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        return future, lambda outcome: self._report(future, outcome)

    def _report(self, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        if threading.get_ident() == self._thread:
            future.set_result(outcome)
            return
        with self._lock:
            self._arrived.append((future, outcome))
            called, self._called = self._called, True
        if not called:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop has ended, and nobody waits
                self._arrived.clear()

    def _deliver(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, deque()
            self._called = False
        for future, outcome in arrived:
            if not future.done():
                future.set_result(outcome)
