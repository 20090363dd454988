"""The rows of a shared call: enough for nearly the most rows per second, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies.times import ServiceTimes


@pytest.mark.parametrize(
    ("points", "limit", "rows"),
    [
        ({1: 1.0, 64: 64.0}, 64, 1),  # every row takes the same time
        ({1: 1.0, 64: 1.0}, 64, 64),  # a call of many rows takes no longer
        ({1: 1.0, 64: 1.0}, 10, 10),
        ({1: 1.0, 8: 1.0, 64: 8.0}, 64, 8),
    ],
)
def test_the_rows_of_a_shared_call(points: dict[int, float], limit: int, rows: int) -> None:
    assert ServiceTimes(points).efficient_rows(limit, 0.9) == rows


@given(
    points=st.dictionaries(st.integers(1, 2048), st.floats(1e-6, 1.0), min_size=1, max_size=5),
    limit=st.integers(1, 2048),
)
def test_nearly_the_most_rows_per_second_are_computed(points: dict[int, float], limit: int) -> None:
    times = ServiceTimes(points)
    rows = times.efficient_rows(limit, 0.9)
    assert 1 <= rows <= limit
    assert times.rate(rows) >= 0.9 * times.rate(times.best_rows(limit)) or rows == limit
