"""Runs tests against mutants, each in a process of its own.

For each mutant, a process that has imported everything and captured the programs of the tests is forked, and the
mutant's code replaces the source's code. A mutant of code that runs at import goes to a process that has not imported
recfx yet.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.mutants.mirror import ROOT
from tests.mutants.mutate import Mutant
from tests.mutants.reach import Finder, Place, Reached, compiled
from tests.mutants.swap import caches, swap

SURVIVED, KILLED, TIMEOUT = "survived", "killed", "timeout"
_NO_TESTS, _NOT_SWAPPED = 5, 77

#: The limit of a mutant's processor time: a multiple of its tests' time, plus some seconds.
_TIMES, _MORE = 5.0, 20.0
_BYTES = 6 << 30  # memory that a mutant may allocate in addition to that of the process


@dataclasses.dataclass
class Tests:
    """The results of tests without a mutant.

    Attributes:
        seconds: Test -> its time.
        reached: Test -> the functions that it ran.
        failed: Tests that fail.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    reached: dict[str, set[Place]] = dataclasses.field(default_factory=dict)
    failed: set[str] = dataclasses.field(default_factory=set)

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that run the function of a mutant, or any function of its file for a mutant of the module itself;
        quickest first."""
        line = mutant.function(ROOT)
        chosen = [
            test
            for test, places in self.reached.items()
            if test not in self.failed
            and ((mutant.file, line) in places or (line is None and any(file == mutant.file for file, _ in places)))
        ]
        return sorted(chosen, key=lambda test: self.seconds[test])


class _Observer:
    """A pytest plugin that fills in `Tests`."""

    def __init__(self, tests: Tests, reached: Reached | None = None, file: str = "") -> None:
        self._tests, self._reached, self._file = tests, reached, file
        self._caches: list[Any] = []

    def pytest_collection_finish(self) -> None:
        self._caches = caches(self._file) if self._file else []

    def pytest_runtest_setup(self, item: Any) -> None:
        for cached in self._caches:
            cached.cache_clear()
        if self._reached is not None:
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


def warm_up() -> None:
    """Imports modules that every test needs and no mutant changes, so that forked processes do not import them
    again."""
    import hypothesis  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), strict=False).module()
    assert not any(name == "recfx" or name.startswith("recfx.") for name in sys.modules)


def observe(files: Sequence[str], mutants: Sequence[Mutant]) -> Tests:
    """Runs test files without a mutant in this process, and the tests of mutants once more in a forked process, as for
    mutants."""
    tests, again, reached = Tests(), Tests(), Reached()
    sys.meta_path.insert(0, reached.finder(list(dict.fromkeys(mutant.file for mutant in mutants))))
    run_tests(files, plugins=[_Observer(tests, reached, mutants[0].file)])
    needed = {test for mutant in mutants for test in tests.of(mutant)}
    with tempfile.NamedTemporaryFile() as found:

        def rerun() -> int:
            _forget(mutants[0].file)
            order = _Chosen(sorted(needed, key=lambda test: tests.seconds[test]))
            run_tests(files, plugins=[order, _Observer(again)])
            Path(found.name).write_bytes(pickle.dumps(again))
            return 0

        wait(fork(rerun, None, float("inf")))
        again = pickle.loads(Path(found.name).read_bytes())
    return Tests(tests.seconds | again.seconds, tests.reached, tests.failed | again.failed)


def judge(
    files: Sequence[str], mutants: Sequence[Mutant], tests: Tests, limit: float, end: float
) -> Iterator[tuple[Mutant, str | None]]:
    """Yields mutants with their verdicts, in a process that has observed the tests; None for a mutant that cannot be
    swapped in here."""
    for mutant in mutants:
        if time.monotonic() > end:
            return
        chosen = tests.of(mutant)
        yield mutant, _verdict(files, chosen, _put_in(mutant), tests, limit) if chosen else SURVIVED


def judge_imported(files: Sequence[str], mutant: Mutant, tests: Tests, limit: float) -> str:
    """The verdict on a mutant that is in place from the import on, in a process that has not imported recfx."""

    def put_in() -> bool:
        sys.meta_path.insert(0, Finder({mutant.file: lambda: compiled(mutant.file, mutant.tree(ROOT))}, {}))
        return True

    verdict = _verdict(files, tests.of(mutant), put_in, tests, limit, more=60.0)
    assert verdict is not None
    return verdict


def _put_in(mutant: Mutant) -> Callable[[], bool]:
    def put_in() -> bool:
        _forget(mutant.file)
        return swap(mutant)

    return put_in


def _forget(file: str) -> None:
    for cached in caches(file):
        cached.cache_clear()


def _verdict(
    files: Sequence[str], chosen: list[str], put_in: Callable[[], bool], tests: Tests, limit: float, more: float = 0.0
) -> str | None:
    def run() -> int:
        return run_tests(files, "-x", plugins=[_Chosen(chosen)]) if put_in() else _NOT_SWAPPED

    needed = _TIMES * sum(tests.seconds[test] for test in chosen) + _MORE + more
    code = wait(fork(run, int(needed), limit))
    if code == _NOT_SWAPPED:
        return None
    if code is None or code == -signal.SIGXCPU:
        return TIMEOUT
    return SURVIVED if code in (0, _NO_TESTS) else KILLED


def run_tests(files: Sequence[str], *options: str, plugins: list[Any]) -> int:
    """Runs test files in this process; returns pytest's exit code."""
    import pytest

    os.environ["HYPOTHESIS_PROFILE"] = "ci"
    return int(pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *options, *files], plugins=plugins))


def fork(run: Callable[[], int], seconds: int | None, limit: float) -> tuple[int, float]:
    """Starts a function in a forked process without output; returns its id and its deadline. `seconds` are processor
    time."""
    pid = os.fork()
    if pid:
        return pid, time.monotonic() + limit
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(ROOT)
        silent = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        if seconds is not None:
            used = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds + 10))
            held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_AS, (held + _BYTES, held + _BYTES))
        code = run()
    finally:
        os._exit(code)


def wait(started: tuple[int, float]) -> int | None:
    """The exit code of a forked process; None if it reached its limit and was ended."""
    pid, deadline = started
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
