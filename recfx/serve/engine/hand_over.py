"""The time that it takes to hand work from one thread to another, measured once in each process."""

from __future__ import annotations

import functools
import statistics
import threading
import time

_ROUNDS = 40


@functools.cache
def hand_over_seconds() -> float:
    """Seconds from a notification to the moment when the waiting thread runs: the median of some rounds between two threads."""
    turn = threading.Condition()
    sent, found = [0.0], list[float]()

    def answer() -> None:
        with turn:
            while len(found) < _ROUNDS:
                turn.wait_for(lambda: sent[0] > 0.0)
                found.append(time.perf_counter() - sent[0])
                sent[0] = 0.0
                turn.notify_all()

    thread = threading.Thread(target=answer, name="recfx-hand-over", daemon=True)
    thread.start()
    with turn:
        for _ in range(_ROUNDS):
            sent[0] = time.perf_counter()
            turn.notify_all()
            turn.wait_for(lambda: sent[0] == 0.0)
    thread.join()
    return statistics.median(found)
