"""The command of the mutation tests: it must not import recfx before it makes mutants."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.imports import ROOT


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.mutants", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_command_starts_and_counts() -> None:
    assert "0 of 0 mutants noticed" in _run("recfx/ir/dead_code.py", "--sample", "1", "--seconds", "0")


@pytest.mark.slow
def test_mutants_are_judged_by_tests_that_reach_them(tmp_path: Path) -> None:
    """Runs all mutants of a small file against its tests, again from the file of verdicts, and against unrelated tests."""
    file, results = "recfx/ir/dead_code.py", tmp_path / "verdicts.jsonl"
    told = ("--at-least", "0", "--results", str(results), "--workers", "1")
    first = _run(file, "--tests", "tests/passes/clean/test_merge_duplicates.py", "tests/ir/test_ir_programs.py", *told)
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert f" of {len(records)} mutants noticed" in first
    killed = [record for record in records if record["verdict"] == "killed"]
    assert killed
    assert all(record["test"].startswith("tests/") for record in killed)
    again = _run(file, *told)
    assert again.splitlines()[-1] == first.splitlines()[-1]
    assert len(results.read_text().splitlines()) == len(records)
    unrelated = _run(file, "--tests", "tests/test_percentile_interval.py", "--at-least", "0")
    assert f"0 of {len(records)} mutants noticed" in unrelated
