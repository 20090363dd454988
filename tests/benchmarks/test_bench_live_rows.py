"""The benchmark of new rows of tables."""

from __future__ import annotations

import pytest
import torch

from benchmarks.__main__ import main


def test_every_format_has_two_rows(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        arguments = ["--rows", "500", "--update", "50", "--batch", "3", "--seconds", "0.1"]
        assert main(["live-rows", "int8", *arguments]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]
    assert [row[:2] for row in rows] == [["int8", "no"], ["int8", "yes"]]
    for row in rows:
        rate, reached, *times = (float(cell) for cell in [*row[2:4], *row[5:]])
        assert rate > 0
        assert reached > 0
        assert 0 < times[0] <= times[1]
        assert times[4] > 0


def test_an_unknown_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live-rows", "int3"]) == 1
    assert "int3" in capsys.readouterr().err
