"""Fixtures of tests in which backends compete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from competition_kit import NEVER, Toy
from placement_kit import TableCosts

from recfx.driver import competition, plan_times
from recfx.targets import BACKENDS


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    backend = Toy()
    monkeypatch.setitem(BACKENDS, "toy", backend)
    return backend


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(plan_times, "_SECONDS", 0.02)
    monkeypatch.setattr(plan_times, "_BETWEEN_SECONDS", 0.01)

    def use(costs: TableCosts | None) -> None:
        monkeypatch.setattr(competition, "cost_model", lambda: costs or NEVER)

    return use
