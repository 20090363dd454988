"""The engine tells when a request waited and when its call ran."""

from __future__ import annotations

import threading

from engine_kit import Slow, compiled, tensors, variant

from recfx.serve.engine.engine import Engine
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.trace import CallTimes


class Seen:
    """A trace that keeps what it is told."""

    def __init__(self) -> None:
        self.times: list[tuple[float, int, CallTimes]] = []
        self.known = threading.Event()

    def computed(self, arrived: float, rows: int, call: CallTimes) -> None:
        self.times.append((arrived, rows, call))

    def finish(self, outcome: object) -> None:
        """Takes the outcome, of which the times are known by then."""
        assert self.times
        self.known.set()


def test_requests_that_share_a_call_have_its_times() -> None:
    slow = Slow(compiled())
    engine = Engine("tiny", [variant(slow)], EngineSettings(workers=1))
    try:
        first, *others = [Seen() for _ in range(3)]
        engine.submit(tensors(2), first.finish, trace=first)
        assert slow.entered.acquire(timeout=30)
        for number, each in enumerate(others):
            engine.submit(tensors(3 + number), each.finish, trace=each)
        slow.go.set()
        assert all(each.known.wait(30) for each in (first, *others))
    finally:
        slow.go.set()
        engine.close()
    ((_, rows, alone),) = first.times
    assert (rows, alone.requests, alone.rows, alone.parts, alone.variant) == (2, 1, 2, 1, "fp32")
    shared = [each.times[0] for each in others]
    assert [rows for _, rows, _ in shared] == [3, 4]
    assert shared[0][2] is shared[1][2]
    assert (shared[0][2].requests, shared[0][2].rows) == (2, 7)
    for arrived, _, call in (first.times[0], *shared):
        ((begun, ended),) = call.runs
        assert arrived <= call.taken <= begun <= ended <= call.ended
    assert shared[0][0] <= alone.ended <= shared[0][2].taken


def test_a_call_that_is_repeated_has_a_time_for_each_run() -> None:
    slow = Slow(compiled())
    engine = Engine("tiny", [variant(slow)], EngineSettings(workers=1))
    try:
        first, *others = [Seen() for _ in range(3)]
        engine.submit(tensors(1), first.finish, trace=first)
        assert slow.entered.acquire(timeout=30)
        for each in others:
            engine.submit(tensors(2), each.finish, trace=each)
        slow.errors += [RuntimeError("the first call"), RuntimeError("the shared call")]
        slow.go.set()
        assert all(each.known.wait(30) for each in others)
    finally:
        slow.go.set()
        engine.close()
    assert len(others[0].times[0][2].runs) == 3  # together, and then each alone


def test_a_request_without_a_trace_is_answered() -> None:
    engine = Engine("tiny", [variant()], EngineSettings(workers=1))
    try:
        known = threading.Event()
        engine.submit(tensors(2), lambda outcome: known.set())
        assert known.wait(30)
    finally:
        engine.close()
