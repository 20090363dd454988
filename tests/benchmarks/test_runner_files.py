"""The files and the command line of the benchmark runner: JSON and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from runner_kit import (
    TINY,
    FakePeer,
    Missing,
    fake_machine,
    fake_peaks,
    measure,
    nan,
    wrong_value,
)

from benchmarks.__main__ import main
from benchmarks.peer import Peer
from benchmarks.peers.eager import Eager
from benchmarks.results import Results
from benchmarks.runner import run
from benchmarks.table import render
from recfx.errors import InputError


def test_results_survive_a_file(tmp_path: Path) -> None:
    results = measure(FakePeer("liar", wrong_value), Missing("missing", nan))
    file = tmp_path / "new" / "results.json"
    results.save(file)
    assert Results.load(file) == results
    assert render(Results.load(file)) == render(results)
    assert not list(file.parent.glob("*.partial"))
    values = results.to_json()
    assert values["environment"]["versions"]["torch"] == torch.__version__
    assert {"date", "revision", "cpu", "cores", "flags"} <= values["environment"].keys()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 2, "environment": {}}'])
def test_files_that_are_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(InputError, match="results"):
        Results.load(file)


def test_the_table_shows_limits_and_geometric_means() -> None:
    results = measure(FakePeer("same", lambda out: out))
    table = render(results)
    bound = results.bounds[0]
    assert bound.work.weight_bytes == 6 * 4
    assert bound.work.lookup_bytes == 16
    assert bound.limit.weights == pytest.approx(24 / 1e9)
    assert bound.limit.lookups == pytest.approx(1 / 1e6)
    assert "limit 1.0 µs" in table
    assert "### tiny, 1 thread, uniform ids" in table
    assert "Geometric mean" in table
    assert "| same |       1 |" in table


@pytest.fixture
def tiny_world(monkeypatch: pytest.MonkeyPatch) -> Sequence[Peer]:
    """The command line with the tiny case and three peers."""
    peers = [Eager(), FakePeer("same", lambda out: out), FakePeer("liar", wrong_value)]
    monkeypatch.setattr("benchmarks.commands.side_by_side.all_cases", lambda: {"tiny": TINY})
    monkeypatch.setattr("benchmarks.commands.side_by_side.all_peers", lambda: {peer.name: peer for peer in peers})
    monkeypatch.setattr(
        run, "__kwdefaults__", {**(run.__kwdefaults__ or {}), "machine": fake_machine, "peaks": fake_peaks}
    )
    return peers


@pytest.mark.usefixtures("tiny_world")
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "results.json"
    quick = ["--batch", "1,3", "--seconds", "0.005", "--zipf", "uniform,1.2"]
    assert main(["run", "t*", "--peers", "same", *quick, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "Zipf 1.2 ids" in shown.out
    assert shown.err == ""
    assert len(Results.load(out).measurements) == 2 * 2 * 2
    assert main(["table", str(out)]) == 0
    assert capsys.readouterr().out == shown.out
    stored = Results.load(out).measurements
    again = ["--seconds", "0.005", "--ids", "uniform", "--batches", "1,2", "--out", str(out), "--resume"]
    assert main(["run", "--cases", "tiny", "--peers", "*,!liar", *again]) == 0
    assert capsys.readouterr().err == ""
    assert Results.load(out).measurements[: len(stored)] == stored
    assert len(Results.load(out).measurements) == len(stored) + 2
    assert main(["run", "--peers", "*", *quick]) == 0  # the table names a peer that is wrong
    assert "WRONG" in capsys.readouterr().out
    monkeypatch.setattr(FakePeer, "ours", True)
    assert main(["run", "--peers", "*", *quick]) == 2
    assert main(["run", "tony"]) == 1
    assert "did you mean tiny" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "absent")]) == 1
    assert main(["list"]) == 0
    assert "one table of 50 x 4" in capsys.readouterr().out
