"""`Workers`: when the next one is expected to be free."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.workers import Workers


class OneCall:
    """A source that has one call, which runs until it is released.

    Args:
        predicted: The seconds that the call is expected to take.
    """

    name = "held"

    def __init__(self, predicted: float) -> None:
        self.lock = threading.Lock()
        self.begun, self.released = threading.Event(), threading.Event()
        self._calls: list[Any] = [SimpleNamespace(seconds=predicted, stop=lambda: None)]

    def clock(self) -> float:
        return 100.0

    def take(self, free: Any) -> Any:
        if self._calls:
            return self._calls.pop(), 0
        self.released.wait(10)
        return None

    def run(self, call: Any, part: int) -> None:
        self.begun.set()
        self.released.wait(10)


@pytest.mark.parametrize("predicted", [0.5, 7.0])
def test_a_busy_worker_is_free_when_its_call_is_expected_to_end(predicted: float) -> None:
    source = OneCall(predicted)
    workers = Workers(source, EngineSettings(workers=1))  # type: ignore[arg-type]
    try:
        assert source.begun.wait(10)
        assert workers.busy == 1
        assert workers.first_free(100.0) == pytest.approx(100.0 + predicted)
    finally:
        source.released.set()
        assert workers.join(10)
    assert workers.busy == 0
    assert workers.first_free(200.0) == 200.0


def test_the_first_of_several_workers_counts() -> None:
    source = OneCall(7.0)
    workers = Workers(source, EngineSettings(workers=2))  # type: ignore[arg-type]
    try:
        assert source.begun.wait(10)
        assert workers.first_free(100.0) == 100.0, "the second worker has no call"
    finally:
        source.released.set()
        assert workers.join(10)
