"""A record of the functions that each test runs: made once for all test files, and kept in a file of JSON lines.

The record only chooses the tests of a mutant, so an old one makes a verdict pessimistic, never better than it is.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from tests.mutants.imports import ROOT, module_of
from tests.mutants.mutate import FUNCTIONS, Mutant, first_line
from tests.mutants.observe import Tests, collect, observe_briefly
from tests.mutants.processes import fork, wait
from tests.mutants.reach import Reached

#: A function: its file and its qualified name.
Function = tuple[str, str]

#: The largest number of tests of one test file that are kept for a function; the quickest are kept.
_TESTS_OF_A_FILE = 4

#: The elapsed seconds of a test file after which none of its tests is started.
_SECONDS = 45.0


class Record:
    """The tests that run each function.

    Args:
        path: The file of the record; files that it lacks are made by `add`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._load()

    def _load(self) -> None:
        self._tests: dict[Function, list[tuple[float, str]]] = {}
        self._size: dict[str, int] = {}
        self._digests: dict[str, str] = {}
        for line in self._path.read_text().splitlines() if self._path.is_file() else ():
            self._read(json.loads(line))

    def lacks(self, files: Sequence[str]) -> list[str]:
        """The test files that are not in the record, or have changed since."""
        return [file for file in files if self._digests.get(file) != _digest(file)]

    def of(self, function: Function) -> list[tuple[float, str]]:
        """The tests that run a function, each with its seconds."""
        return self._tests.get(function, [])

    def has(self, mutant: Mutant) -> bool:
        """Whether any test runs the function of a mutant."""
        return any(self.of((mutant.file, name)) for name in functions_of(mutant))

    def seconds(self) -> dict[str, float]:
        """Test -> its seconds."""
        return {test: seconds for tests in self._tests.values() for seconds, test in tests}

    def size(self, file: str) -> int:
        """The number of functions that the tests of a test file run: few for tests of single functions."""
        return self._size.get(file, 0)

    def add(self, files: Sequence[str], workers: int) -> None:
        """Runs test files in processes of their own, and adds what they run. A file that exceeds the limit adds what it lacks."""
        from tests.mutants.mirror import mutated_files

        self._path.parent.mkdir(parents=True, exist_ok=True)

        def host() -> int:
            reached = Reached()
            sys.meta_path.insert(0, reached.finder(list(mutated_files())))
            _import_all(mutated_files())
            collect(files[:1])
            _each(files, lambda file: _observe(file, reached, self._path), workers)
            return 0

        wait(fork(host, None, float("inf")))
        self._load()

    def _read(self, record: dict) -> None:  # type: ignore[type-arg]
        file = record["file"]
        if not (ROOT / file).is_file():
            return
        self._digests[file], self._size[file] = record["digest"], len(record["functions"])
        tests = record["tests"]
        for name, chosen in record["functions"].items():
            source, _, function = name.partition(" ")
            known = [entry for entry in self._tests.get((source, function), []) if entry[1].split("::")[0] != file]
            self._tests[source, function] = known + [(tests[at][1], f"{file}::{tests[at][0]}") for at in chosen]


def functions_of(mutant: Mutant) -> set[str]:
    """The functions that a mutant changes: the one around it; for code that runs at import, those that read the constant, all of the class,
    or the function with the decorator or the default."""
    tree = ast.parse((ROOT / mutant.file).read_text())
    names = function_names(mutant.file)
    line = mutant.function(ROOT)
    if line is not None:
        return {name for name in (names.get(line),) if name}
    node = next(n for i, n in enumerate(ast.walk(tree)) if i == mutant.node)
    around = next((s for s in tree.body if any(n is node for n in ast.walk(s))), None)
    if around is None:
        return set()
    inside = {first_line(n) for n in ast.walk(around) if isinstance(n, FUNCTIONS)}
    if isinstance(around, ast.FunctionDef | ast.ClassDef) and inside:
        return {names[at] for at in inside}
    assigned = {n.id for n in ast.walk(around) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assigned |= {around.name} if isinstance(around, ast.ClassDef) else set()
    return {
        names[first_line(function)]
        for function in ast.walk(tree)
        if isinstance(function, FUNCTIONS) and assigned & {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
    }


@cache
def function_names(file: str) -> dict[int, str]:
    """First line -> qualified name, for the functions of a source file."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, around: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = around
            if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                inner = f"{around}.{getattr(child, 'name', '<lambda>')}".lstrip(".")
            if isinstance(child, FUNCTIONS):
                found.setdefault(first_line(child), inner)
            visit(child, inner)

    visit(ast.parse((ROOT / file).read_text()), "")
    return found


def _each(files: Sequence[str], run: Callable[[str], int], workers: int) -> None:
    """Runs a function for each file in processes of their own."""
    waiting, running = list(files), []
    while waiting or running:
        while waiting and len(running) < workers:
            file = waiting.pop(0)
            running.append(fork(lambda file=file: run(file), None, 10 * _SECONDS))  # type: ignore[misc]
        for pid, deadline in list(running):
            if os.waitpid(pid, os.WNOHANG)[0]:
                running.remove((pid, deadline))
            elif time.monotonic() > deadline:
                os.killpg(pid, 9)
        time.sleep(0.02)


def _import_all(files: Sequence[str]) -> None:
    """Imports the sources, so that the processes of the test files do not import them again. What needs absent packages is left out."""
    for file in files:
        with contextlib.suppress(ImportError):
            importlib.import_module(module_of(file))


def _observe(file: str, reached: Reached, path: Path) -> int:
    """Runs a test file and adds its line to the record."""
    tests = Tests()
    observe_briefly(file, tests, reached, _SECONDS)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, json.dumps(_line(file, tests)).encode() + b"\n")
    return 0


def _line(file: str, tests: Tests) -> dict[str, object]:
    """The record of a test file."""
    order = sorted((test for test in tests.reached if test not in tests.failed), key=lambda test: tests.seconds[test])
    functions: dict[str, list[int]] = {}
    for place, test in enumerate(order):
        for source, line in tests.reached[test]:
            chosen = functions.setdefault(f"{source} {function_names(source)[line]}", [])
            if len(chosen) < _TESTS_OF_A_FILE:
                chosen.append(place)
    kept = [(test.partition("::")[2], round(tests.seconds[test], 3)) for test in order]
    return {"file": file, "digest": _digest(file), "tests": kept, "functions": functions}


def _digest(file: str) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()[:16]


def chosen_tests(record: Record, mutant: Mutant, nearest: Sequence[str], seconds: float) -> Iterator[str]:
    """The tests of a mutant within a budget of seconds: first those of the nearest test files, then those of files that run few functions.

    Args:
        record: The tests that run each function.
        mutant: The mutant.
        nearest: The test files of its source file, nearest first.
        seconds: The budget.
    """
    places = {file: place for place, file in enumerate(nearest)}
    found: dict[str, float] = {}
    for name in functions_of(mutant):
        found |= {test: its for its, test in record.of((mutant.file, name))}

    def rank(test: str) -> tuple[int, float]:
        file = test.split("::")[0]
        return min(places.get(file, len(places)), 8), record.size(file) * 1e-3 + found[test]

    for test in sorted(found, key=rank):
        if found[test] <= seconds:
            seconds -= found[test]
            yield test
