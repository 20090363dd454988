"""Rows on levels symmetric about zero, compared with an exhaustive search for the step and with levels between the
extremes of a row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats.code_fit import best_codes, find_codes, minmax_codes, symmetric_codes
from recfx.formats.symmetric import lost_across, lowest, nearest_codes, symmetric_steps

relaxed = settings(deadline=None, max_examples=30)


def drawn(seed: int, rows: int, dim: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def error(rows: torch.Tensor, step: torch.Tensor, bits: int) -> torch.Tensor:
    """Squared error of each row rounded at a step, [n]."""
    column = step[:, None]
    codes = nearest_codes(rows, lowest(bits) * column, column, bits)
    return ((codes.to(rows.dtype) + lowest(bits)) * column - rows).square().sum(1)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("dim", [16, 64, 256])
def test_steps_are_nearly_the_best_there_are(bits: int, dim: int) -> None:
    """Alternating rounding and regression stops at a fixed point; a search through 400 steps improves the error by at
    most a tenth."""
    rows = drawn(0, 500, dim).double()
    found = error(rows, symmetric_steps(rows, bits)[0], bits).sum()
    size = rows.abs().amax(1) / -lowest(bits)
    tried = torch.stack([error(rows, size * part / 200, bits) for part in range(1, 401)]).amin(0).sum()
    assert float(found) <= 1.1 * float(tried)


@pytest.mark.parametrize("bits", [2, 4, 8])
@relaxed
@given(seed=st.integers(0, 2**32), dim=st.integers(1, 80), size=st.sampled_from([1e-25, 1.0, 1e14]))
@example(seed=4346812, dim=1, size=1e-25)  # a row of 6e-29, whose step is 5e-31
def test_rows_do_not_underrate_themselves(bits: int, seed: int, dim: int, size: float) -> None:
    rows = drawn(seed, 20, dim) * size
    held = symmetric_codes(rows, bits).values().double()
    torch.testing.assert_close((held * rows).sum(1), rows.double().square().sum(1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_are_found_again(bits: int) -> None:
    table = drawn(0, 40, 64)
    codes = symmetric_codes(table, bits)
    again = find_codes(codes.values(), bits)
    assert again is not None
    torch.testing.assert_close(again.values(), codes.values(), rtol=1e-5, atol=1e-6)


def test_at_two_bits_three_tenths_less_is_lost() -> None:
    table = drawn(0, 500, 64)
    about_zero, spread = (lost_across(table, codes(table, 2).values()) for codes in (symmetric_codes, minmax_codes))
    assert about_zero < 0.72 * spread


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_better_of_the_two(bits: int) -> None:
    positive = drawn(0, 50, 32).abs() + 1
    assert torch.equal(best_codes(positive, bits).values(), minmax_codes(positive, bits).values())
    outlying = drawn(1, 50, 64)
    outlying[:, 0] *= 3
    about_zero, spread, best = (
        lost_across(outlying, codes(outlying, bits).values()) for codes in (symmetric_codes, minmax_codes, best_codes)
    )
    assert best == min(about_zero, spread)


def test_what_a_scale_mends_is_not_lost() -> None:
    rows = drawn(0, 9, 12)
    assert lost_across(rows, 3 * rows) == pytest.approx(0, abs=1e-3)
    assert lost_across(rows, torch.zeros_like(rows)) == pytest.approx(float(rows.square().sum()), rel=1e-5)


@pytest.mark.parametrize("table", [torch.zeros(3, 4), torch.empty(0, 4)], ids=["zeros", "no rows"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nothing_to_round(table: torch.Tensor, bits: int) -> None:
    for codes in (symmetric_codes(table, bits), best_codes(table, bits)):
        assert codes.codes.shape == table.shape
        assert torch.equal(codes.values(), table)


def test_tables_with_nan_are_refused() -> None:
    with pytest.raises(InputError, match="row 1 of the table holds NaN"):
        symmetric_codes(torch.tensor([[1.0], [torch.nan]]), 2)
