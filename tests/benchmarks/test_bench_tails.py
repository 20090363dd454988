"""Percentiles of single calls under disturbances."""

from __future__ import annotations

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.tails import CONDITIONS, Row


def test_every_condition_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert main(["tails", "--threads", "2", "--batches", "3", "--seconds", "0.02"]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ][2:]
    assert [row[:3] for row in rows] == [[condition, "2", "3"] for condition in CONDITIONS]
    for row in rows:
        p50, p99, worst = (float(cell.replace(",", "")) for cell in row[6:9])
        assert 0 < p50 <= p99 <= worst


def test_an_unknown_condition_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tails", "--conditions", "alone,loud"]) == 1
    assert "loud" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("compiled", "missed"),
    [
        ((10.0, 30.0, 90.0), ""),
        ((10.0, 31.0, 90.0), "3 x p50"),
        ((40.0, 101.0, 90.0), "p99"),
        ((40.0, 90.0, 301.0), "p99.9"),
    ],
)
def test_goals_that_are_missed_are_named(compiled: tuple[float, float, float], missed: str) -> None:
    row = Row("alone", 2, 16, (50.0, 100.0, 300.0), compiled, (1000, 1000))
    assert row.missed == missed
