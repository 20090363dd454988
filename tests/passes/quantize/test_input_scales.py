"""Calibrated scales of a layer's input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recfx.passes.quantize.input_scales import METHODS, input_scale

SCALES: Any = [method for method in METHODS if method != "dynamic"]


def with_outlier(size: float = 1000.0) -> Tensor:
    """20,000 normal numbers and a large one."""
    x = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    x[3, 4] = -size
    return x


def test_the_largest_magnitude() -> None:
    assert input_scale(with_outlier(), "min-max") == pytest.approx(1000 / 127)


def test_a_percentile_ignores_an_outlier() -> None:
    x = with_outlier()
    assert input_scale(x, "percentile") == pytest.approx(float(x.abs().flatten().quantile(0.999)) / 127, rel=0.05)


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_moderate_outliers_are_clipped(method: Any) -> None:
    assert input_scale(with_outlier(60), method) < 0.99 * 60 / 127


def test_the_least_squared_error_is_not_above_that_of_the_largest_magnitude() -> None:
    x = with_outlier(20)

    def error(scale: float) -> float:
        return float(((x / scale).round().clamp(-127, 127) * scale - x).square().sum())

    assert error(input_scale(x, "mse")) < error(input_scale(x, "min-max"))


@pytest.mark.parametrize("method", SCALES)
def test_numbers_of_one_magnitude_keep_it(method: Any) -> None:
    x = torch.where(torch.randn(40, 10) > 0, 3.0, -3.0)
    assert input_scale(x, method) == pytest.approx(3 / 127, rel=1e-6)


NO_SCALE = {
    "no row": torch.zeros(0, 4),
    "zeros": torch.zeros(5, 4),
    "NaN": torch.tensor([[1.0, math.nan]]),
    "an infinity": torch.tensor([[1.0, math.inf]]),
    "a denormal scale": torch.full((3, 3), 1e-40),
}


@pytest.mark.parametrize("method", SCALES)
@pytest.mark.parametrize("name", NO_SCALE)
def test_rows_without_a_scale_keep_their_own(name: str, method: Any) -> None:
    assert input_scale(NO_SCALE[name], method) == 0.0


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    exponent=st.integers(-90, 90),
    method=st.sampled_from(SCALES),
    positive=st.booleans(),
)
def test_a_scale_is_positive_and_at_most_that_of_the_largest_magnitude(
    seed: int, rows: int, columns: int, exponent: int, method: Any, positive: bool
) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    x = x.relu() if positive else x
    found, most = input_scale(x, method), input_scale(x, "min-max")
    assert 0 <= found <= most * (1 + 1e-6)
    assert (found > 0) == (most > 0)
