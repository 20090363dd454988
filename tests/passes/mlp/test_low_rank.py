"""Factors of low rank: the errors that theory gives, and ranks from shares of energy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.passes.mlp.low_rank import spectrum


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 12), columns=st.integers(1, 12), rank=st.integers(1, 12))
def test_factors_have_the_least_error_that_their_rank_allows(seed: int, rows: int, columns: int, rank: int) -> None:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=g)
    x = torch.randn(30, columns, generator=g, dtype=torch.float64) * torch.logspace(-2, 1, columns, dtype=torch.float64)
    rank = min(rank, rows, columns)
    plain, aware = spectrum(weight), spectrum(weight, x.T @ x)
    errors = {}
    for name, found in (("plain", plain), ("aware", aware)):
        left, right = found.factors(rank)
        away = weight.double() - left @ right
        errors[name] = float(away.square().sum()), float((x @ away.T).square().sum())
        assert left.shape == (rows, rank)
        assert right.shape == (rank, columns)
    total = float(weight.double().square().sum())
    assert errors["plain"][0] == pytest.approx(plain.lost(rank) * total, abs=1e-9 * total)
    assert errors["plain"][0] <= errors["aware"][0] + 1e-9 * total
    assert errors["aware"][1] <= errors["plain"][1] * 1.05 + 1e-4 * float((x @ weight.double().T).square().sum())
    assert plain.lost(plain.rank_of(0.9)) <= 0.1 + 1e-9


def test_a_weight_of_zeros_has_rank_one_and_zero_factors() -> None:
    found = spectrum(torch.zeros(3, 4), torch.zeros(4, 4, dtype=torch.float64))
    assert found.rank_of(0.9) == 1
    assert found.lost(1) == 0
    left, right = found.factors(1)
    assert float((left @ right).abs().max()) == 0


def test_the_rank_grows_with_the_energy() -> None:
    found = spectrum(torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0])))
    assert [found.rank_of(energy) for energy in (0.5, 0.9, 20 / 21 + 1e-9, 1.0)] == [1, 2, 3, 3]
