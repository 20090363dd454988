"""Factors that level the columns of an int8 layer's input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recfx.formats import quantize_per_channel
from recfx.ops.mlp import product
from recfx.passes.quantize.migrate_scales import column_factors


def error_of(x: Tensor, weight: Tensor, factor: Tensor | None) -> float:
    """The squared error of an int8 layer."""
    codes, scale = quantize_per_channel(weight if factor is None else weight / factor)
    return float((product(x, codes, None, scale, 0.0, factor).double() - x.double() @ weight.double().T).square().sum())


def outliers(seed: int = 0, columns: int = 40, large: int = 5, size: float = 500.0) -> tuple[Tensor, Tensor]:
    """Rows with some columns of large numbers, and a weight."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(64, columns, generator=rng)
    x[:, :large] *= size
    return x, torch.randn(24, columns, generator=rng)


def test_large_columns_lose_their_hold_on_the_others() -> None:
    x, weight = outliers()
    factor = column_factors(x, weight)
    assert factor is not None
    assert float(factor[:5].max()) < float(factor[5:].min())
    assert error_of(x, weight, factor) < 0.5 * error_of(x, weight, None)


def test_other_rows_profit_as_well() -> None:
    x, weight = outliers(0)
    other, _ = outliers(1)
    assert error_of(other, weight, column_factors(x, weight)) < 0.5 * error_of(other, weight, None)


def normal(rows: int = 32) -> Tensor:
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(3))


LEFT_ALONE: dict[str, tuple[Tensor, Tensor]] = {
    "columns of one range": (normal(64).sign(), normal(8).sign()),
    "no row": (torch.zeros(0, 12), normal()),
    "no column": (torch.zeros(4, 0), torch.zeros(3, 0)),
    "zeros": (torch.zeros(9, 12), normal()),
    "a weight of zeros": (normal(), torch.zeros(4, 12)),
    "no finite row": (torch.full((4, 12), math.inf), normal()),
    "one column": (outliers(columns=1, large=1)[0], outliers(columns=1)[1]),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_no_factors_without_gain(name: str) -> None:
    assert column_factors(*LEFT_ALONE[name]) is None


def test_rows_with_nan_or_infinities_do_not_count() -> None:
    x, weight = outliers()
    broken = torch.cat([x, torch.full((1, 40), math.nan), torch.full((1, 40), math.inf)])
    found, wanted = column_factors(broken, weight), column_factors(x, weight)
    assert found is not None
    assert wanted is not None
    assert torch.equal(found, wanted)


def test_columns_without_numbers_get_a_factor_among_the_others() -> None:
    x, weight = outliers()
    x[:, 7], weight[:, 9] = 0.0, 0.0
    factor = column_factors(x, weight)
    assert factor is not None
    used = [column for column in range(40) if column not in (7, 9)]
    for column in (7, 9):
        assert float(factor[used].min()) <= float(factor[column]) <= float(factor[used].max())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 40),
    columns=st.integers(1, 30),
    spread=st.floats(0, 30),
    size=st.sampled_from([1.0, 1e30, 1e-30, 1e-42]),
    clip=st.booleans(),
)
def test_factors_are_exact_and_never_worse(
    seed: int, rows: int, columns: int, spread: float, size: float, clip: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    ranges = torch.exp2((torch.rand(columns, generator=rng) - 0.5) * spread)
    x = torch.randn(rows, columns, generator=rng) * ranges * size
    weight = torch.randn(9, columns, generator=rng)
    factor = column_factors(x, weight, clip=clip)
    if factor is None:
        return
    assert bool(((factor > 0) & (factor <= 1)).all())
    assert torch.equal(factor.log2(), factor.log2().round())
    assert torch.equal((weight / factor) * factor, weight)
    if not clip:
        assert error_of(x, weight, factor) <= error_of(x, weight, None)
