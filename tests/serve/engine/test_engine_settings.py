"""The limits of a served model: their defaults, and values that are refused."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest

from recfx.errors import InputError
from recfx.serve.engine.settings import EngineSettings, processors


def test_the_defaults() -> None:
    held = EngineSettings()
    assert (held.workers, held.threads) == (processors(), 1)
    assert (held.most_queued, held.most_rows, held.batch_rows) == (1024, 65536, 1024)
    assert (held.split, held.timeout, held.grace) == (True, None, math.inf)
    assert (held.here_seconds, held.most_wait, held.call_seconds) == (100e-6, 0.0, 30.0)


def test_as_many_workers_as_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5} if pid == 0 else set())
    assert EngineSettings().workers == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


@pytest.mark.parametrize("name", ["workers", "threads", "most_queued", "most_rows", "batch_rows"])
def test_numbers_are_integers_of_at_least_one(name: str) -> None:
    assert getattr(EngineSettings(**{name: 1}), name) == 1
    for wrong in (0, -1, 1.0, True, "2", None):
        with pytest.raises(InputError, match="expected an integer of at least 1") as caught:
            EngineSettings(**{name: wrong})  # type: ignore[arg-type]
        assert caught.value.where == name


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [
        ("here_seconds", 0.0, -1e-9),
        ("most_wait", 0, -1),
        ("timeout", 1e-6, 9e-7),
        ("grace", 0, -1e-9),
        ("call_seconds", 1e-3, 9e-4),
    ],
)
def test_times_are_finite_and_not_too_short(name: str, least: float, below: float) -> None:
    assert getattr(EngineSettings(**{name: least}), name) == least  # type: ignore[arg-type]
    wrong: list[Any] = [below, -math.inf, math.nan, True, "1"]
    wrong += [] if name == "timeout" else [None]
    wrong += [] if name == "grace" else [math.inf]
    for value in wrong:
        with pytest.raises(InputError, match="expected seconds of at least") as caught:
            EngineSettings(**{name: value})
        assert caught.value.where == name
