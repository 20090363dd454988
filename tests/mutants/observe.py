"""Runs pytest in this process and records results: the functions and the time of each test, or the first failure."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.mutants.imports import ROOT
from tests.mutants.mutate import Mutant
from tests.mutants.reach import Place, Reached
from tests.mutants.swap import caches


@dataclasses.dataclass
class Tests:
    """The results of tests without a mutant.

    Attributes:
        seconds: Test -> its time.
        reached: Test -> the functions of mutated files that it ran.
        failed: The tests that fail without a mutant, which cannot judge mutants.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    reached: dict[str, set[Place]] = dataclasses.field(default_factory=dict)
    failed: set[str] = dataclasses.field(default_factory=set)

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that run the function of a mutant, quickest first."""
        place = (mutant.file, mutant.function(ROOT))
        chosen = [test for test, places in self.reached.items() if place in places and test not in self.failed]
        return sorted(chosen, key=lambda test: self.seconds[test])


class _Observer:
    """A pytest plugin that fills in `Tests`."""

    def __init__(self, tests: Tests, reached: Reached, file: str) -> None:
        self._tests, self._reached, self._file = tests, reached, file
        self._caches: list[Any] = []

    def pytest_collection_finish(self) -> None:
        self._caches = caches(self._file)

    def pytest_runtest_setup(self, item: Any) -> None:
        for cached in self._caches:
            cached.cache_clear()
        self._reached.now = self._tests.reached.setdefault(item.nodeid, set())

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._tests.seconds[report.nodeid] = self._tests.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self._tests.failed.add(report.nodeid)


class _Chosen:
    """A pytest plugin that runs some tests in a given order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._place), key=lambda i: self._place[i.nodeid])


class NamedFirst:
    """A pytest plugin that runs tests first whose names have one of some words, and Hypothesis tests last.

    Args:
        words: The words.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(words)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=self._rank)

    def _rank(self, item: Any) -> tuple[bool, bool]:
        name = item.nodeid.partition("::")[2]
        drawn = bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))
        return not any(word in name for word in self._words), drawn


class _FirstFailure:
    """A pytest plugin that writes the failed test to a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._file.write_text(report.nodeid)


def observe(files: Sequence[str], tests: Tests, reached: Reached, room: str) -> None:
    """Runs test files without a mutant and adds their results to `tests`; `room` is any file of the mutated room."""
    _run(files, ["--continue-on-collection-errors"], [_Observer(tests, reached, room)])


class _Brief:
    """A pytest plugin that ends after some seconds, and records Hypothesis tests, which draw fewer examples here, with the time of all.

    Args:
        tests: The results.
        seconds: The elapsed seconds after which no test is started.
    """

    def __init__(self, tests: Tests, seconds: float) -> None:
        self._tests, self._end = tests, time.monotonic() + seconds

    def pytest_runtest_teardown(self, item: Any) -> None:
        if time.monotonic() > self._end:
            item.session.shouldstop = "the time of this file is over"
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            self._tests.seconds[item.nodeid] = 5 * self._tests.seconds.get(item.nodeid, 0.0)


def observe_briefly(file: str, tests: Tests, reached: Reached, seconds: float) -> None:
    """Runs a test file without a mutant, Hypothesis tests with a fifth of the examples and last, and adds the results to `tests`.

    Args:
        file: The test file.
        tests: The results, which this adds to.
        reached: What collects the functions that run.
        seconds: The elapsed seconds after which no test is started; the tests left are not in the results.
    """
    plugins = [_Observer(tests, reached, "passes"), _Brief(tests, seconds), NamedFirst(())]
    _run([file], ["--continue-on-collection-errors"], plugins, "reach")


def collect(files: Sequence[str]) -> None:
    """Imports test files, so that forked processes do not import them again."""
    _run(files, ["--collect-only", "--continue-on-collection-errors"], [])


def run_until_failure(
    files: Sequence[str],
    failure: Path,
    chosen: Sequence[str] | None = None,
    skipped: Iterable[str] = (),
    words: Iterable[str] = (),
) -> int:
    """Runs test files up to the first failure; returns pytest's exit code.

    Args:
        files: The test files.
        failure: The file to write the failed test to.
        chosen: The tests to run, in this order; by default all, Hypothesis tests last.
        skipped: The tests not to run.
        words: Of all tests, those with such a word in their names run first.
    """
    plugins: list[Any] = [_FirstFailure(failure), NamedFirst(words) if chosen is None else _Chosen(chosen)]
    return _run(files, ["-x", *(f"--deselect={test}" for test in skipped)], plugins)


#: The tests that judge mutants. Those that need TorchRec are slow only because of its import.
_MARKS = "not nightly and (torchrec or not slow)"


def _run(files: Sequence[str], options: list[str], plugins: list[Any], profile: str = "mutants") -> int:
    import pytest

    os.environ["HYPOTHESIS_PROFILE"] = profile
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-m", _MARKS, *options]
    return int(pytest.main([*options, *files], plugins=plugins))
