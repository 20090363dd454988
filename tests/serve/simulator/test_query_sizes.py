"""Candidates per request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.serve.simulator import QuerySizes


@pytest.mark.parametrize(
    ("text", "mean", "spread"),
    [
        ("deeprecsys", 165.0, 16.0),
        ("deeprecsys-large", 256.0, 32.0),
        ("deeprecsys-lognormal", 167.3, 33.8),  # exp(5.1 + 0.02), and that times sqrt(exp(0.04) - 1)
        ("mlperf", 400.0, 173.5),
        ("normal:100,5", 100.0, 5.0),
        ("uniform:10,20", 15.0, 3.16),
        ("270", 270.0, 0.0),
        ("fixed:64", 64.0, 0.0),
        ("recorded:100,300", 200.0, 100.0),
    ],
)
def test_mean_and_spread(text: str, mean: float, spread: float) -> None:
    sizes = QuerySizes.of(text)
    rows = sizes.draw(20_000, np.random.default_rng(0))
    assert rows.mean() == pytest.approx(mean, rel=0.02)
    assert rows.std() == pytest.approx(spread, rel=0.03, abs=1e-9)
    assert sizes.average == pytest.approx(mean, rel=0.05)


@given(st.sampled_from(["normal", "lognormal"]), st.floats(0.0, 1000.0), st.floats(0.0, 500.0), st.integers(1, 2000))
def test_rows_stay_between_1_and_the_most(kind: str, first: float, second: float, most: int) -> None:
    given_values = (first, second) if kind == "normal" else (first / 200.0, second / 200.0)
    rows = QuerySizes(kind, given_values, most).draw(200, np.random.default_rng(0))
    assert 1 <= rows.min() <= rows.max() <= most


@pytest.mark.parametrize(
    "text",
    ["", "many", "normal:1", "normal:1,2,3", "uniform:9,2", "fixed:1,2", "zipf:1,2", "normal:nan,1", "normal:-5,1"],
)
def test_texts_that_are_not_sizes(text: str) -> None:
    with pytest.raises(InputError) as caught:
        QuerySizes.of(text)
    assert caught.value.hint


def test_no_recorded_sizes() -> None:
    with pytest.raises(InputError):
        QuerySizes("recorded", ())
