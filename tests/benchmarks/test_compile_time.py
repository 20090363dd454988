"""Measurements of the time and memory that optimize takes."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import compile_time
from benchmarks.__main__ import main
from benchmarks.pair_models import PAIR_MODELS, pair_model


@pytest.mark.parametrize("name", PAIR_MODELS)
def test_models_of_pairs_have_a_row_for_each_row(name: str) -> None:
    model, values = pair_model(name, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(values[:3]), model(values)[:3])


def test_a_case_is_measured_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compile_time.CASES, "small", compile_time._pairs("field-aware", 4))
    found = compile_time.compile_case("small")
    assert all(found.seconds[stage] > 0 for stage in compile_time.STAGES)
    assert sum(found.seconds.values()) <= found.total
    assert compile_time.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found
    line = compile_time.table([found]).splitlines()[-1]
    assert line.startswith("| small")


def test_processes_find_the_bytecode_of_every_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    compile_time.write_bytecode()
    written = {file.name.partition(".")[0] for file in tmp_path.rglob("*.pyc")}
    assert {"optimizer", "build", "stages", "registry", "compile_time"} <= written


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile-time", "no-such-case"]) == 1
    message = capsys.readouterr().err
    assert "no-such-case" in message
    assert "field-aware-26" in message


@pytest.mark.slow
def test_the_command_prints_a_row_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile-time", "dlrm-26"]) == 0
    assert "dlrm-26" in capsys.readouterr().out
