"""Runs tests against a mutant in a forked process, and confirms that the failed test passes without the mutant."""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.mutants.imports import ROOT
from tests.mutants.mutate import Mutant
from tests.mutants.observe import Tests, run_until_failure
from tests.mutants.processes import fork, wait
from tests.mutants.reach import Finder, compiled
from tests.mutants.swap import caches, swap

SURVIVED, KILLED, TIMEOUT = "survived", "killed", "timeout"
_NO_TESTS, _NOT_SWAPPED, _NOT_MADE = 5, 77, 78

#: The limit of a mutant's processor time: a multiple of its tests' time, plus some seconds.
_TIMES, _MORE = 5.0, 20.0

#: The limit of processor time where the time of the tests is not known, in seconds.
_UNTIMED = 200


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on a mutant.

    Attributes:
        kind: SURVIVED, KILLED or TIMEOUT.
        test: The failed test; empty if no test failed or the process ended.
    """

    kind: str
    test: str = ""


def warm_up() -> None:
    """Imports modules that every test needs and no mutant changes, so that forked processes do not import them
    again."""
    import hypothesis  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), strict=False).module()
    assert not any(name == "recfx" or name.startswith("recfx.") for name in sys.modules)


class Judge:
    """Runs mutants in forks of this process.

    Args:
        tests: The results of the tests without a mutant; tests that turn out to fail are added to `failed`.
        limit: The largest number of elapsed seconds of a test run.
        report: Called with each test that fails without a mutant.
    """

    def __init__(self, tests: Tests, limit: float, report: Callable[[str], None]) -> None:
        self._tests, self._limit, self._report = tests, limit, report
        self._passing: set[str] = set()

    def swapped(self, mutant: Mutant, chosen: list[str]) -> Verdict | None:
        """The verdict of timed tests on a mutant that is swapped into a fork of this process; None if it cannot be
        swapped in."""

        seconds = _TIMES * sum(self._tests.seconds[test] for test in chosen) + _MORE
        while chosen:
            files = list(dict.fromkeys(test.split("::")[0] for test in chosen))
            verdict = self._run(files, chosen, lambda: _forget(mutant) and swap(mutant), int(seconds))
            if verdict is None or self._stands(verdict, lambda: _forget(mutant)):
                return verdict
            chosen = [test for test in chosen if test not in self._tests.failed]
        return Verdict(SURVIVED)

    def untimed(self, mutant: Mutant, files: Sequence[str]) -> Verdict | None:
        """The verdict of whole test files, which are imported but were not run; None if the mutant cannot be swapped
        in."""
        return self._of_files(files, lambda: swap(mutant), mutant.words(ROOT))

    def imported(self, mutant: Mutant, files: Sequence[str], chosen: list[str] | None = None) -> Verdict:
        """The verdict on a mutant that is in place from the import on, in a process that has not imported recfx.

        Args:
            mutant: The mutant.
            files: The test files.
            chosen: Their tests that run; all by default.
        """

        def put_in() -> bool:
            code = compiled(mutant.file, mutant.tree(ROOT))
            sys.meta_path.insert(0, Finder({mutant.file: lambda: code}, {}))
            return True

        verdict = self._of_files(files, put_in, mutant.words(ROOT), chosen)
        assert verdict is not None
        return verdict

    def _of_files(
        self, files: Sequence[str], put_in: Callable[[], bool], words: frozenset[str], chosen: list[str] | None = None
    ) -> Verdict | None:
        """The verdict of whole test files, whose tests with one of the words in their names run first. Files that exceed
        the limits without a mutant do not judge it."""
        while True:
            verdict = self._run(files, chosen, put_in, _UNTIMED, words)
            if verdict == Verdict(TIMEOUT):
                without = self._run(files, chosen, lambda: True, _UNTIMED)
                return Verdict(SURVIVED) if without == Verdict(TIMEOUT) else verdict
            if verdict is None or self._stands(verdict, lambda: True):
                return verdict

    def _stands(self, verdict: Verdict, without: Callable[[], bool]) -> bool:
        """Whether the failed test passes without the mutant."""
        test = verdict.test
        if verdict.kind != KILLED or not test or test in self._passing:
            return True
        alone = self._run([test.split("::")[0]], [test], without, None)
        if alone == Verdict(SURVIVED):
            self._passing.add(test)
            return True
        self._tests.failed.add(test)
        self._report(test)
        return False

    def _run(
        self,
        files: Sequence[str],
        chosen: list[str] | None,
        prepare: Callable[[], bool],
        seconds: int | None,
        words: frozenset[str] = frozenset(),
    ) -> Verdict | None:
        with tempfile.NamedTemporaryFile("r") as failure:

            def run() -> int:
                try:
                    ready = prepare()
                except (SyntaxError, TypeError, ValueError):  # of `compile`
                    traceback.print_exc()
                    return _NOT_MADE
                if not ready:
                    return _NOT_SWAPPED
                return run_until_failure(files, Path(failure.name), chosen, self._tests.failed, words)

            code = wait(fork(run, seconds, self._limit))
            test = failure.read()
        if code == _NOT_MADE:
            raise RuntimeError("a mutant does not compile; with MUTANTS_LOG=FILE its error is in that file")
        if code == _NOT_SWAPPED:
            return None
        if code is None or code == -signal.SIGXCPU:
            return Verdict(TIMEOUT)
        return Verdict(SURVIVED) if code in (0, _NO_TESTS) else Verdict(KILLED, test)


def _forget(mutant: Mutant) -> bool:
    """Clears the caches that hide a mutant; always true."""
    for cached in caches(mutant.file):
        cached.cache_clear()
    return True
