"""The record of the functions that each test runs, and the tests that it chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants import reaching
from tests.mutants.mutate import Mutant, mutants_of
from tests.mutants.observe import Tests as Results
from tests.mutants.reaching import Record, chosen_tests, function_names, functions_of

SOURCE = """LIMIT = 7


class Held:
    size: int = 3

    def wide(self):
        return self.size > 4

    def narrow(self):
        return (lambda x: x < 5)(1)


def reads(x=6):
    return x > LIMIT


def other():
    return 8
"""
FILES = ("tests/test_imports.py", "tests/test_words.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one source file and two test files."""
    (tmp_path / "tests").mkdir()
    for file in FILES:
        (tmp_path / file).write_text("")
    (tmp_path / "file.py").write_text(SOURCE)
    monkeypatch.setattr(reaching, "ROOT", tmp_path)
    function_names.cache_clear()
    return tmp_path


def _mutant(folder: Path, what: str) -> Mutant:
    return next(mutant for mutant in mutants_of(folder, "file.py") if mutant.what == what)


@pytest.mark.parametrize(
    ("what", "functions"),
    [
        ("4 becomes 5", {"Held.wide"}),
        ("5 becomes 6", {"Held.narrow.<lambda>"}),
        ("8 becomes 9", {"other"}),
        ("7 becomes 8", {"reads"}),
        ("6 becomes 7", {"reads"}),
        ("3 becomes 4", {"Held.wide", "Held.narrow", "Held.narrow.<lambda>"}),
    ],
    ids=["method", "lambda", "function", "constant", "default", "class"],
)
def test_the_functions_that_a_mutant_changes(folder: Path, what: str, functions: set[str]) -> None:
    assert functions_of(_mutant(folder, what)) == functions


def _recorded(folder: Path) -> Path:
    """A record in which one test file runs every function and the other only one."""
    tests, few = Results(), Results()
    lines = list(function_names("file.py"))
    tests.seconds = {"a::quick": 0.1, "a::slow": 9.0, "a::fails": 0.0}
    tests.reached = {test: {("file.py", line) for line in lines} for test in tests.seconds}
    tests.failed = {"a::fails"}
    few.seconds, few.reached = {"b::direct": 1.0}, {"b::direct": {("file.py", lines[-1])}}
    path = folder / "record.jsonl"
    made = [reaching._line(file, its) for file, its in zip(FILES, (tests, few), strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in made))
    return path


def test_the_tests_of_a_mutant(folder: Path) -> None:
    """The nearest files come first, then those that run few functions; a test beyond the budget is left out, as is one that fails."""
    record, mutant = Record(_recorded(folder)), _mutant(folder, "8 becomes 9")
    quick, slow, direct = f"{FILES[0]}::quick", f"{FILES[0]}::slow", f"{FILES[1]}::direct"
    assert sorted(chosen_tests(record, mutant, [], 20.0)) == sorted([quick, slow, direct])
    assert list(chosen_tests(record, mutant, [FILES[1]], 20.0)) == [direct, quick, slow]
    assert list(chosen_tests(record, mutant, [FILES[0]], 20.0)) == [quick, slow, direct]
    assert list(chosen_tests(record, mutant, [FILES[0]], 2.0)) == [quick, direct]
    assert list(chosen_tests(record, _mutant(folder, "4 becomes 5"), [], 20.0)) == [quick, slow]
    assert record.has(mutant)
    assert record.seconds() == {quick: 0.1, slow: 9.0, direct: 1.0}


def test_changed_test_files_are_recorded_again(folder: Path) -> None:
    path = _recorded(folder)
    assert Record(path).lacks(FILES) == []
    (folder / FILES[1]).write_text("changed = 1")
    assert Record(path).lacks(FILES) == [FILES[1]]
    (folder / FILES[0]).unlink()
    assert not Record(path).has(_mutant(folder, "4 becomes 5"))  # the tests of a file that is gone
    assert Record(folder / "none").lacks(FILES[1:]) == [FILES[1]]


def test_a_file_that_was_recorded_twice_counts_once(folder: Path) -> None:
    path = _recorded(folder)
    path.write_text(path.read_text() * 2)
    assert len(Record(path).of(("file.py", "other"))) == 3
