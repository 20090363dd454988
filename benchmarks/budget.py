"""A limit to the time that something may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OverBudget(BaseException):
    """The time is up."""


@contextmanager
def budget(seconds: float | None) -> Iterator[None]:
    """Raises OverBudget in the block when the time is up.

    A call into native code ends first. Outside the main thread, which alone receives alarms, the time is not limited.

    Args:
        seconds: The time; None for no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OverBudget(f"took more than the {seconds:g} s that a peer may prepare")

    before = signal.signal(signal.SIGALRM, ring)
    # Rings every second from then on, as an exception raised inside a finaliser is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
