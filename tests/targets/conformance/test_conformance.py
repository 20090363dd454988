"""The conformance suite: every backend computes what torch computes for every operator that it supports, or gives a reason why it does not.

To check a backend outside this repository, add it to `recfx.targets.BACKENDS` and run these functions with its name.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conformance_cases import CASES
from conformance_kit import COMPILERS, Case, check_numbers, place
from numpy_backend import NumpyBackend

from recfx.ir.program import Program
from recfx.targets import BACKENDS, Backend

NAMES = [*(name for name in BACKENDS if name not in COMPILERS), "numpy"]

#: Backends that call torch or NumPy for each operator. By default they run one case of each operator; the other cases are slow tests.
_PLAIN = ("eager", "numpy")

#: Backend -> the cases that it leaves to torch. It supports all others; a later version may support more.
REFUSED: dict[str, list[str]] = json.loads((Path(__file__).parent / "refused_cases.json").read_text())

#: The first case of each operator.
_FIRST = {case.target: case for case in reversed(CASES)}


def _named(name: str, case: Case) -> Any:
    slow = name in _PLAIN and _FIRST[case.target] is not case
    return pytest.param(name, case, id=f"{case.name}-{name}", marks=pytest.mark.slow if slow else ())


@cache
def _program(case: Case) -> Program:
    """The program of a case, which backends read and do not change."""
    return case.program()


def backend_named(name: str) -> Backend:
    """The backend; skips the test if it cannot run here."""
    backend = NumpyBackend() if name == "numpy" else BACKENDS[name]
    missing = backend.unavailable()
    if missing is not None:
        pytest.skip(f"{name}: {missing}")
    return backend


@pytest.mark.parametrize(("name", "case"), [_named(name, case) for case in CASES for name in NAMES])
def test_an_operator_is_right_or_refused_with_a_reason(name: str, case: Case) -> None:
    backend, program = backend_named(name), _program(case)
    verdicts = backend.supports(program)
    placed = place(program, backend)
    assert verdicts.keys() == {n for n in program.graph.nodes if n.op == "call_function"}
    assert all(reason.strip() for reason in placed.refused.values())
    assert not placed.refused or name not in REFUSED or case.name in REFUSED[name], placed.refused
    check_numbers(case, program, placed.run, backend)
