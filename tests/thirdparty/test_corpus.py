"""Models of deepctr-torch, torch-rechub, recbole and torchrec: captured, optimised, compared with eager.

Slow, and needs packages from outside: `make thirdparty`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from corpus import ModelCase, all_cases
from examine import Outcome, examine, spread
from expected import EXPECTED_FAILURES
from make_table import PAGE, page
from shared_outcomes import SharedOutcomes

CASES = {case.label: case for case in all_cases()}
TOLERANCE = 1e-5  # kernels add in another order than torch's operators

pytestmark = pytest.mark.slow


OutcomeOf = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def outcome_of(shared_outcomes: SharedOutcomes) -> OutcomeOf:
    """Gives what examining a model found."""
    return lambda label: shared_outcomes.get(label, lambda: examine(CASES[label]))


def installed(label: str) -> ModelCase:
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    return case


@pytest.fixture
def all_outcomes(outcome_of: OutcomeOf) -> dict[str, Outcome]:
    return {label: outcome_of(label) for label in CASES if installed(label)}


@pytest.mark.parametrize("label", sorted(CASES.keys() - EXPECTED_FAILURES.keys()))
def test_captured_and_optimized_model_agrees_with_eager(label: str, outcome_of: OutcomeOf) -> None:
    assert spread(installed(label).build()) > 1e-5, "every row gets the same answer: nothing would be compared"
    outcome = outcome_of(label)
    assert outcome.captured, outcome.error
    assert {2, 7, 64} <= outcome.differences.keys(), outcome.refused
    assert outcome.worst <= TOLERANCE, outcome.differences


@pytest.mark.parametrize("label", sorted(EXPECTED_FAILURES))
def test_refused_model_is_refused_for_the_known_reason(label: str, outcome_of: OutcomeOf) -> None:
    installed(label)
    outcome = outcome_of(label)
    assert outcome.error is not None, f"{label} is captured now: take it out of EXPECTED_FAILURES"
    assert EXPECTED_FAILURES[label].fragment in outcome.error


def test_most_models_of_each_library_are_captured(all_outcomes: dict[str, Outcome]) -> None:
    for library in {case.library for case in CASES.values()}:
        of_library = [outcome for label, outcome in all_outcomes.items() if CASES[label].library == library]
        assert sum(outcome.captured for outcome in of_library) > 0.7 * len(of_library), library
    assert sum(outcome.captured for outcome in all_outcomes.values()) >= 30


def test_documentation_says_what_this_run_found(all_outcomes: dict[str, Outcome]) -> None:
    assert PAGE.read_text() == page(all_outcomes), "run tests/thirdparty/make_table.py"
