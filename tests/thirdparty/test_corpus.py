"""Models of libraries and of common forms are captured, optimised, and compared with eager and with their records in
records.json.

Slow, and needs packages from outside: `make thirdparty`.  No test needs the outcome of another, so that processes can share them.
"""

from __future__ import annotations

import pytest
from corpus import ModelCase, all_cases
from examine import examine, spread
from expected import EXPECTED_FAILURES
from make_table import PAGE, page
from records import load, record_of

CASES = {case.label: case for case in all_cases()}
RECORDS = load()
TOLERANCE = 1e-5  # kernels add in another order than torch's operators
SLOWER = 1.1  # a possible measured ratio of a model that is as fast as eager

pytestmark = pytest.mark.slow


def installed(label: str) -> ModelCase:
    case = CASES[label]
    if not case.installed:
        pytest.skip(f"{case.requires} is not installed: make thirdparty")
    return case


@pytest.mark.parametrize("label", sorted(CASES.keys() - EXPECTED_FAILURES.keys()))
def test_captured_and_optimized_model_agrees_with_eager_and_with_its_record(label: str) -> None:
    assert spread(installed(label).build()) > 1e-5, "every row gets the same answer: nothing would be compared"
    outcome = examine(CASES[label])
    assert outcome.captured, outcome.error
    assert {2, 7, 64} <= outcome.differences.keys(), outcome.refused
    assert outcome.worst <= TOLERANCE, outcome.differences
    found, known = record_of(outcome), RECORDS[label]
    assert (found.backend, found.refused, found.notices) == (known.backend, known.refused, known.notices)
    assert found.left_count <= known.left_count, f"torch runs more of it than the page says: {outcome.left}"
    assert found.share <= known.share + 0.02, outcome.left


@pytest.mark.parametrize("label", sorted(EXPECTED_FAILURES))
def test_refused_model_is_refused_for_the_known_reason(label: str) -> None:
    outcome = examine(installed(label))
    assert outcome.error is not None, f"{label} is captured now: take it out of EXPECTED_FAILURES"
    assert EXPECTED_FAILURES[label].fragment in outcome.error


def test_most_models_of_each_library_are_captured() -> None:
    for library in {case.library for case in CASES.values()}:
        of_library = [RECORDS[label].captured for label in CASES if CASES[label].library == library]
        assert sum(of_library) > 0.7 * len(of_library), library
    assert len(CASES) >= 300


def test_the_page_says_what_the_records_hold() -> None:
    for label in CASES:
        installed(label)
    assert RECORDS.keys() == CASES.keys()
    assert PAGE.read_text() == page(RECORDS), "run tests/thirdparty/make_table.py"


def test_no_model_is_slower_than_eager_in_the_default_mode() -> None:
    """Do-no-harm keeps eager for slower models; each captured model was measured."""
    for label, record in RECORDS.items():
        assert bool(record.ratios) == record.captured, label
        assert record.eager_kept or max(record.ratios.values(), default=0) < SLOWER, label
