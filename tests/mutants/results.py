"""Verdicts in a file of JSON lines, from which a later run continues."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from tests.mutants.execute import KILLED, SURVIVED, Verdict
from tests.mutants.imports import ROOT
from tests.mutants.mutate import Mutant


class Results:
    """The verdicts of a file.

    A verdict is valid while the mutated file is unchanged (except comments and docstrings). For a killed mutant the file of the failed test
    must also be unchanged, for a survivor all files of the tests.

    Args:
        path: The file; None for verdicts in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        self._known = {record["mutant"]: record for record in map(json.loads, lines)}

    def verdict(self, mutant: Mutant) -> Verdict | None:
        """The valid verdict on a mutant; None without one."""
        record = self._known.get(_identity(mutant))
        if record is None:
            return None
        verdict = Verdict(record["verdict"], record["test"])
        return verdict if record["tests"] == _judged_by(verdict) else None

    def add(self, mutant: Mutant, verdict: Verdict) -> None:
        """Adds a verdict to the file."""
        record = {
            "mutant": _identity(mutant),
            "file": mutant.file,
            "line": mutant.line,
            "text": mutant.text,
            "what": mutant.what,
            "verdict": verdict.kind,
            "test": verdict.test,
            "tests": _judged_by(verdict),
        }
        self._known[record["mutant"]] = record
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def _identity(mutant: Mutant) -> str:
    return f"{mutant.file} {_source(mutant.file)} {mutant.node} {mutant.change}"


def _judged_by(verdict: Verdict) -> str:
    """A digest of the tests that a verdict depends on."""
    if verdict.kind == SURVIVED:
        return _all_tests()
    if verdict.kind == KILLED and verdict.test:
        file = ROOT / verdict.test.split("::")[0]
        return _digest(file.read_text()) if file.is_file() else ""
    return ""


@cache
def _source(file: str) -> str:
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant("")  # docstrings
    return _digest(ast.dump(tree))


@cache
def _all_tests() -> str:
    return _digest("".join(file.read_text() for file in sorted((ROOT / "tests").rglob("*.py"))))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
