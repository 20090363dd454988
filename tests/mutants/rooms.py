"""Judges the mutants of one room by their test files, nearest first."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.mutants.execute import SURVIVED, Judge, Verdict
from tests.mutants.imports import ROOT
from tests.mutants.mirror import for_names, tests_of_declarations
from tests.mutants.mutate import Mutant
from tests.mutants.observe import Tests, collect, observe
from tests.mutants.processes import fork, wait
from tests.mutants.reach import Reached
from tests.mutants.reaching import Record, chosen_tests

#: Called with each mutant and its verdict, and with None and each test that fails without a mutant.
Report = Callable[[Mutant | None, Verdict], None]

_FILES_AT_A_TIME = 2

#: The largest number of mutants of a source file that are judged by whole test files.
_FEW = 3

#: The largest number of whole test files for a mutant in a function, and for a mutant in code that runs at import.
_FILES_UNTIMED, _FILES_AT_IMPORT = 8, 6


#: The seconds of the tests that run against a mutant: first the tests that fit a few seconds, and then more for those that survive.
_SECONDS = (6.0, 60.0)


def judge_room(
    mutants: Sequence[Mutant],
    mirror: Callable[[str], Sequence[str]],
    limit: float,
    end: float,
    report: Report,
    record: Record | None = None,
) -> None:
    """Judges the mutants of a room in a process that has not imported recfx.

    Args:
        mutants: The mutants.
        mirror: Function from a source file to its test files, nearest first.
        limit: The largest number of elapsed seconds of a test run.
        end: The time after which no mutant is started.
        report: Called with every verdict.
        record: The functions that each test runs. A mutant in a function that the record has is judged by tests that run it.
    """
    at_import = [mutant for mutant in mutants if mutant.function(ROOT) is None]
    inside = [mutant for mutant in mutants if mutant not in at_import]
    with tempfile.NamedTemporaryFile("r") as handed:

        def warm() -> int:
            left = [mutants.index(mutant) for mutant in _judge_warm(inside, mirror, limit, end, report, record)]
            Path(handed.name).write_text(json.dumps(left))
            return 0

        if inside:
            wait(fork(warm, None, float("inf")))
            at_import += [mutants[place] for place in json.loads(handed.read())]
    judge = Judge(Tests(), limit, lambda test: report(None, Verdict(SURVIVED, test)))
    for mutant in at_import:
        if time.monotonic() < end:
            declared = tests_of_declarations(mutant.file)
            tests = list(chosen_tests(record, mutant, mirror(mutant.file), _SECONDS[1])) if record is not None else []
            files = [*mirror(mutant.file)[: _FILES_AT_IMPORT if not tests else 1], *declared]
            verdict = judge.imported(mutant, _files(tests), tests) if tests else Verdict(SURVIVED)
            report(
                mutant, judge.imported(mutant, list(dict.fromkeys(files))) if verdict == Verdict(SURVIVED) else verdict
            )


def _files(tests: Sequence[str]) -> list[str]:
    """The files of tests."""
    return list(dict.fromkeys(test.split("::")[0] for test in tests))


def _judge_warm(
    mutants: Sequence[Mutant],
    mirror: Callable[[str], Sequence[str]],
    limit: float,
    end: float,
    report: Report,
    record: Record | None,
) -> Iterator[Mutant]:
    """Judges mutants in functions in forks of this process; yields the mutants that cannot be swapped in."""
    if record is not None:
        judge = Judge(Tests(record.seconds()), limit, lambda test: report(None, Verdict(SURVIVED, test)))
        known = [mutant for mutant in mutants if record.has(mutant)]
        yield from _by_record(judge, record, known, mirror, end, report)
        mutants = [mutant for mutant in mutants if mutant not in known]
    count = Counter(mutant.file for mutant in mutants)
    many = [mutant for mutant in mutants if count[mutant.file] > _FEW]
    few = [mutant for mutant in mutants if count[mutant.file] <= _FEW]
    tests, reached = Tests(), Reached()
    sys.meta_path.insert(0, reached.finder(list(dict.fromkeys(mutant.file for mutant in mutants))))
    judge = Judge(tests, limit, lambda test: report(None, Verdict(SURVIVED, test)))
    yield from _by_files(judge, few, mirror, end, report)
    yield from _by_reach(judge, tests, reached, many, mirror, end, report)


def _by_record(
    judge: Judge,
    record: Record,
    mutants: Sequence[Mutant],
    mirror: Callable[[str], Sequence[str]],
    end: float,
    report: Report,
) -> Iterator[Mutant]:
    """Runs the tests that run the function of each mutant."""
    for mutant in mutants:
        done: set[str] = set()
        verdict: Verdict | None = Verdict(SURVIVED)
        for seconds in _SECONDS:
            if time.monotonic() > end:
                return
            tests = [test for test in chosen_tests(record, mutant, mirror(mutant.file), seconds) if test not in done]
            done |= set(tests)
            if tests and verdict == Verdict(SURVIVED):
                collect(_files(tests))
                verdict = judge.swapped(mutant, tests)
        if verdict is None:
            yield mutant
        else:
            report(mutant, verdict)


def _by_files(
    judge: Judge, mutants: Sequence[Mutant], mirror: Callable[[str], Sequence[str]], end: float, report: Report
) -> Iterator[Mutant]:
    """Runs whole test files against each mutant, which is cheaper for few mutants than to record what each test runs."""
    for mutant in mutants:
        files, verdict = for_names(mirror(mutant.file), mutant.names(ROOT), _FILES_UNTIMED), Verdict(SURVIVED)
        while files and verdict == Verdict(SURVIVED):
            if time.monotonic() > end:
                return
            now, files = files[:_FILES_AT_A_TIME], files[_FILES_AT_A_TIME:]
            collect(now)
            verdict = judge.untimed(mutant, now)
        if verdict is None:
            yield mutant
        else:
            report(mutant, verdict)


def _by_reach(
    judge: Judge,
    tests: Tests,
    reached: Reached,
    mutants: Sequence[Mutant],
    mirror: Callable[[str], Sequence[str]],
    end: float,
    report: Report,
) -> Iterator[Mutant]:
    """Runs test files once without a mutant to record the functions of each test, then only the tests that reach a mutant."""
    done: dict[Mutant, set[str]] = {mutant: set() for mutant in mutants}
    observed: set[str] = set()
    while done:
        for mutant in list(done):
            if time.monotonic() > end:
                return
            verdict = _with_new_tests(judge, tests, mutant, done[mutant])
            files = [file for file in mirror(mutant.file) if file not in observed][:_FILES_AT_A_TIME]
            if verdict == Verdict(SURVIVED) and files:
                observe(files, tests, reached, mutant.file)
                observed |= set(files)
                verdict = _with_new_tests(judge, tests, mutant, done[mutant])
            if verdict is None:
                yield mutant
            elif verdict != Verdict(SURVIVED) or observed.issuperset(mirror(mutant.file)):
                report(mutant, verdict)
            else:
                continue
            del done[mutant]


def _with_new_tests(judge: Judge, tests: Tests, mutant: Mutant, done: set[str]) -> Verdict | None:
    """The verdict of the tests that have not judged the mutant yet; adds them to `done`."""
    chosen = [test for test in tests.of(mutant) if test not in done]
    done |= set(chosen)
    return judge.swapped(mutant, chosen)
