"""The conformance suite: every backend computes what torch computes for every operator that it supports, or gives a reason why it does not.

To check a backend outside this repository, add it to `recfx.targets.BACKENDS` and run these functions with its name.
"""

from __future__ import annotations

import pytest
from conformance_cases import CASES
from conformance_kit import COMPILERS, Case, check_numbers, place
from numpy_backend import NumpyBackend

from recfx.targets import BACKENDS, Backend

NAMES = [*(name for name in BACKENDS if name not in COMPILERS), "numpy"]


def backend_named(name: str) -> Backend:
    """The backend; skips the test if it cannot run here."""
    backend = NumpyBackend() if name == "numpy" else BACKENDS[name]
    missing = backend.unavailable()
    if missing is not None:
        pytest.skip(f"{name}: {missing}")
    return backend


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_is_right_or_refused_with_a_reason(name: str, case: Case) -> None:
    backend, program = backend_named(name), case.program()
    verdicts = backend.supports(program)
    placed = place(program, backend)
    assert verdicts.keys() == {n for n in program.graph.nodes if n.op == "call_function"}
    assert all(reason.strip() for reason in placed.refused.values())
    check_numbers(case, program, placed.run, backend)
