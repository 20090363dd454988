"""The benchmark of compression: its table, and a small run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from native_kit import needs_kernels

import recfx
from benchmarks import compression
from benchmarks.compression import Plan, Row, read, report

ROWS = [
    Row("deepfm", seed, how, 0.76, (drop, drop - 1e-4, drop + 1e-4), (1000, size), *more)
    for seed, drop in ((0, 1e-4), (1, 3e-4))
    for how, size, more in (
        ("int8", 300, ()),
        ("budget 0.001", 150, ((2e-4, 1e-4, 9e-4), True, 12, {"4 bits": 20, "unchanged": 1})),
    )
]


def test_the_table_has_a_mean_for_each_way() -> None:
    text = report(ROWS)
    assert "+0.00020, at most +0.00030" in text
    assert "0.150 ×" in text
    assert "20 4 bits, 1 unchanged" in text
    assert len(text.splitlines()) == 2 + 6


def test_results_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([dataclasses.asdict(row) for row in ROWS]))
    assert read(file) == ROWS


def test_finished_models_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([dataclasses.asdict(row) for row in ROWS]))
    asked: list[tuple[str, int]] = []

    def rows(plan: Plan, name: str, seed: int) -> list[Row]:
        asked.append((name, seed))
        return [dataclasses.replace(ROWS[0], model=name, seed=seed)]

    monkeypatch.setattr(compression, "_rows", rows)
    lines: list[str] = []
    found = compression.measure(Plan(("deepfm",), None, seeds=3), file, lines.append)
    assert asked == [("deepfm", 2)]
    assert len(found) == len(read(file)) == len(ROWS) + 1
    assert lines == ["deepfm, seed 2: int8 +0.000100"]


def test_components_of_an_ablation() -> None:
    found = compression._components(Plan(("deepfm",), None, ablation=True))
    assert len(found) == 1 + 4 + 5
    assert found["budget 0.001, all but ranks"] == ("tables", "rows", "layers", "channels")
    assert found["budget 0.001, rows alone"] == ("rows",)
    assert all(recfx.Budget(1e-3, kinds=kinds) for kinds in found.values())
    assert list(compression._components(Plan(("deepfm",), None))) == ["budget 0.001"]


@pytest.mark.slow
@needs_kernels
def test_a_small_run(tmp_path: Path) -> None:
    plan = Plan(("deepfm",), None, seeds=1, budget=0.05, seconds=2, rows=4000, dim=8)
    rows = compression.measure(plan, tmp_path / "rows.json", lambda line: None)
    widths = [f"{how} {bits} bits" for bits in (4, 2) for how in ("all tables", "guided, as")]
    assert [row.how for row in rows] == [*compression.BLIND, *widths, "budget 0.05"]
    assert {row.model for row in rows} == {"deepfm dim=8"}
    assert all(row.bytes[1] < row.bytes[0] for row in rows)
    assert rows[-1].met is not None
