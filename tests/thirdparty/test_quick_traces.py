"""The quick trace records the programs of a plain trace for models of other libraries, node by node."""

from __future__ import annotations

from typing import Any

import pytest
from corpus import all_cases
from expected import EXPECTED_FAILURES
from trace_kit import both_ways, described

CASES = {case.label: case for case in all_cases()}

pytestmark = pytest.mark.slow


#: Model -> how its quick trace differs from a plain one although both compute the same.
_CONTIGUOUS = "the plain trace has a contiguous() that the quick one leaves out"
DIFFERS = {"transformers/T5": _CONTIGUOUS, "torch-rechub/TIGER": _CONTIGUOUS}


def labels() -> list[Any]:
    """The models, with marks for those whose traces differ."""
    found = sorted(CASES.keys() - EXPECTED_FAILURES.keys())
    marks = {label: pytest.mark.xfail(strict=True, reason=reason) for label, reason in DIFFERS.items()}
    return [pytest.param(label, marks=marks[label]) if label in marks else label for label in found]


@pytest.mark.parametrize("label", labels())
def test_the_program_is_that_of_a_plain_trace(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    built = case.build()
    args, kwargs = built.example()
    quick, plain, _ = both_ways(built.model, args, kwargs, monkeypatch)
    assert described(quick, numbers=False) == described(plain, numbers=False)
    assert quick.notices == plain.notices
    assert quick.signature.leaves == plain.signature.leaves
    assert quick.signature.dims == plain.signature.dims
