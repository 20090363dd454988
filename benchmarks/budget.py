"""A time limit of a block of code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OverBudget(BaseException):
    """The time limit was exceeded."""


@contextmanager
def budget(seconds: float | None) -> Iterator[None]:
    """Raises OverBudget in the block after the time limit. A call into native code ends first. Outside the main thread
    the time is not limited, because only the main thread receives alarms.

    Args:
        seconds: The time limit; None for no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OverBudget(f"took more than the {seconds:g} s that a peer may prepare")

    before = signal.signal(signal.SIGALRM, ring)
    # After the limit, the alarm repeats every second, as an exception raised inside a finaliser is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
