"""Samples of mutants, and the file of verdicts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import results
from tests.mutants.draw import draw, of_each_room
from tests.mutants.execute import KILLED, SURVIVED, Verdict
from tests.mutants.results import Results

FILES = ("recfx/ir/dead_code.py", "recfx/ir/row_kinds.py", "passes/cross/fuse_cross.py")
TEST = "tests/mutants/test_draw.py::test_a_larger_sample_holds_the_smaller"


def test_a_larger_sample_holds_the_smaller() -> None:
    assert set(draw(FILES, 5, 3)) < set(draw(FILES, 20, 3)) < set(draw(FILES, None, 3))
    assert draw(FILES, 5, 3) == draw(FILES, 5, 3) != draw(FILES, 5, 4)


def test_a_sample_stays_when_files_are_added() -> None:
    before, after = set(draw(FILES[:2], 8, 0)), set(draw(FILES, 8, 0))
    assert {mutant for mutant in after if mutant.file != FILES[2]} <= before


def test_each_room_gives_its_number() -> None:
    assert Counter(mutant.room for mutant in of_each_room(FILES, 4, 0)) == {"recfx/ir": 4, "passes/cross": 4}


def test_verdicts_are_taken_from_the_file(tmp_path: Path) -> None:
    killed, survived, other = draw(FILES, 3, 0)
    kept = Results(tmp_path / "mutants" / "verdicts.jsonl")
    assert kept.verdict(killed) is None
    kept.add(killed, Verdict(KILLED, TEST))
    kept.add(survived, Verdict(SURVIVED))
    read = Results(tmp_path / "mutants" / "verdicts.jsonl")
    assert read.verdict(killed) == Verdict(KILLED, TEST)
    assert read.verdict(survived) == Verdict(SURVIVED)
    assert read.verdict(other) is None
    records = map(json.loads, (tmp_path / "mutants" / "verdicts.jsonl").read_text().splitlines())
    assert [(record["file"], record["verdict"]) for record in records] == [
        (killed.file, KILLED),
        (survived.file, SURVIVED),
    ]


def test_verdicts_end_with_the_sources_and_tests_that_they_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, survived = draw(FILES, 2, 0)
    kept = Results(tmp_path / "verdicts.jsonl")
    kept.add(killed, Verdict(KILLED, TEST))
    kept.add(survived, Verdict(SURVIVED))
    with monkeypatch.context() as other_tests:
        other_tests.setattr(results, "_all_tests", lambda: "other tests")
        assert kept.verdict(killed) == Verdict(KILLED, TEST)
        assert kept.verdict(survived) is None
    monkeypatch.setattr(results, "_source", lambda file: "another source")
    assert kept.verdict(killed) is None
