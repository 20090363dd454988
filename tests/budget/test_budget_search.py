"""The search over compositions: what it returns, and how often it measures."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.search import Search

#: Evaluations that 12 leave for compositions.
LIMIT = 8


def search(count: int, fits: Callable[[frozenset[int]], bool], limit: int = LIMIT) -> Search:
    return Search(range(count), fits, limit, lambda number: 1.0 + number)


def test_everything_is_applied_if_that_fits() -> None:
    found = search(30, lambda reverted: True)
    assert found.run() == frozenset()
    assert len(found.found) == 1


@given(st.integers(1, 40), st.data())
@settings(deadline=None)
def test_one_culprit_among_thirty_is_found_wherever_it_stands(count: int, data: st.DataObject) -> None:
    culprit = data.draw(st.integers(0, count - 1))
    found = search(count, lambda reverted: culprit in reverted)
    assert found.run() == {culprit}
    assert len(found.found) <= LIMIT


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 5), st.integers(1, 12))
@settings(deadline=None)
def test_the_result_fits_and_the_measurements_are_limited(harms: list[float], budget: float, limit: int) -> None:
    harms = sorted(harms, reverse=True)

    def fits(reverted: frozenset[int]) -> bool:
        return sum(harm for number, harm in enumerate(harms) if number not in reverted) <= budget

    found = search(len(harms), fits, limit)
    reverted = found.run()
    assert len(found.found) <= limit
    assert len({each.reverted for each in found.found}) == len(found.found), "no composition is measured twice"
    assert fits(reverted)
    measured = [each.reverted for each in found.found if each.fits]
    assert reverted in measured or reverted == frozenset(range(len(harms)))


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_any_answers_give_a_composition_that_fitted(answers: list[bool], data: st.DataObject) -> None:
    """Drops of compositions need not grow with their steps."""
    known: dict[frozenset[int], bool] = {}

    def fits(reverted: frozenset[int]) -> bool:
        return known.setdefault(reverted, data.draw(st.booleans()))

    reverted = search(len(answers), fits).run()
    assert known.get(reverted, reverted == frozenset(range(len(answers))))


def test_nothing_that_fits_takes_everything_back() -> None:
    found = search(12, lambda reverted: False)
    assert found.run() == frozenset(range(12))
    assert len(found.found) <= LIMIT


def test_an_interruption_gives_the_best_so_far() -> None:
    calls = 0

    def fits(reverted: frozenset[int]) -> bool:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return len(reverted) >= 4

    found = search(16, fits)
    assert found.run() == frozenset(range(4))
    assert found.interrupted


def test_steps_that_build_on_others_are_taken_back_with_them() -> None:
    seen: list[frozenset[int]] = []

    def fits(reverted: frozenset[int]) -> bool:
        seen.append(reverted)
        return {0, 1} <= reverted

    def closed(reverted: frozenset[int]) -> frozenset[int]:
        return reverted | {0} if 1 in reverted else reverted

    assert Search(range(6), fits, LIMIT, lambda number: 1.0, closed=closed).run() == {0, 1}
    assert all(closed(reverted) == reverted for reverted in seen)


def test_a_step_of_most_of_the_harm_is_found_at_once_and_the_others_are_applied_again() -> None:
    harms = [1e-5] * 8 + [1.0] + [1e-5] * 40
    found = search(len(harms), lambda reverted: 8 in reverted)
    found.harm = harms.__getitem__
    assert found.run() == {8}
    assert len(found.found) == 4


def test_steps_of_more_harm_than_the_decisive_one_are_applied_again_last() -> None:
    harms = [9.0, 1.0, 1.0, 2.0, 1.0, 1.0]  # the first one would be over the budget as well
    found = search(len(harms), lambda reverted: {0, 3} <= reverted)
    found.harm = harms.__getitem__
    assert found.run() == {0, 3}
    assert [each.reverted for each in found.found][-2:] == [{0, 3}, {3}]


def test_an_infinite_harm_does_not_stop_the_search() -> None:
    found = search(5, lambda reverted: 3 in reverted)
    found.harm = lambda number: float("inf") if number == 0 else 0.0
    assert found.run() == {3}


def test_no_steps_need_no_measurement() -> None:
    found = search(0, lambda reverted: False)
    assert found.run() == frozenset()
    assert not found.found
