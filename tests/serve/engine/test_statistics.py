"""Histograms, quantiles and the history by seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.engine.statistics import Histogram, Statistics
from recfx.serve.outcomes import Reason


@given(values=st.lists(st.floats(0, 100)))
def test_a_histogram_counts_values_up_to_each_bound(values):
    held = Histogram((1.0, 10.0))
    for value in values:
        held.add(value)
    assert held.cumulative == [sum(v <= 1 for v in values), sum(v <= 10 for v in values), len(values)]
    assert held.sum == pytest.approx(sum(values))


def test_quantiles_of_recent_answers():
    held = Statistics()
    assert held.quantiles((0.5, 0.99)) == [None, None]
    for number in range(100):
        held.answer(arrived=10.0, now=10.0 + (number + 1) / 1000, rows=2, version="1")
    assert held.quantiles((0.5, 0.99, 1.0)) == pytest.approx([0.051, 0.1, 0.1])
    assert held.quantiles((0.5,), since=10.0995) == pytest.approx([0.1])
    assert held.quantiles((0.5,), since=11.0) == [None]


def test_late_answers_are_answers():
    held = Statistics()
    held.answer(1.0, 1.5, 2, "1", late=True)
    held.answer(1.0, 1.5, 2, "1")
    assert (held.answered, held.late) == (2, 1)


def test_the_history_has_a_point_for_each_second_with_requests():
    held = Statistics()
    held.answer(1.0, 1.25, 3, "1")
    held.reject(Reason.OVERLOADED, 1.5, "1")
    held.batch(3, [0.125], 0.125, 1.75, "1")
    held.answer(1.5, 4.0, 1, "2")
    first, last = held.points
    assert (first.second, first.answered, first.rejected, first.rows, first.batches, first.slowest) == (
        1,
        1,
        1,
        3,
        1,
        0.25,
    )
    assert (last.second, last.answered, last.slowest, last.version) == (4, 1, 2.5, "2")
    assert held.rejected[Reason.OVERLOADED] == held.batches == 1
    assert held.waiting.sum == held.computing.sum == 0.125
