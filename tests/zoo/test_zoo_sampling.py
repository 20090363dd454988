"""The samplers against their documented distributions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.zoo import ZooError, sample_histories, sample_ids

DRAWS = 200_000


def _probabilities(rows: int, exponent: float) -> list[float]:
    weights = [(rank + 1) ** -exponent for rank in range(rows)]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("exponent", [None, 0.0, 0.5, 1.0, 1.05, 1.2, 2.0])
def test_frequencies_are_those_of_the_bounded_zipf(exponent: float | None, generator: torch.Generator) -> None:
    rows = 50
    ids = sample_ids(rows, (DRAWS,), zipf=exponent, generator=generator)
    counts = torch.bincount(ids, minlength=rows).double()
    expected = DRAWS * torch.tensor(_probabilities(rows, exponent or 0.0), dtype=torch.float64)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 49 + 5 * (2 * 49) ** 0.5  # five standard deviations of chi square at 49 degrees of freedom


def test_large_exponents_and_single_rows(generator: torch.Generator) -> None:
    assert sample_ids(1, (100,), zipf=1.1, generator=generator).eq(0).all()
    steep = sample_ids(10_000, (10_000,), zipf=200.0, generator=generator)
    assert steep.eq(0).all()


def test_the_tail_of_a_large_table_is_reached(generator: torch.Generator) -> None:
    ids = sample_ids(1_000_000, (DRAWS,), zipf=0.5, generator=generator)
    share = (ids >= 500_000).double().mean().item()
    assert share == pytest.approx(1 - 0.5**0.5, abs=0.006)  # the continuous limit: P(id < x n) = sqrt(x)


@given(
    rows=st.integers(1, 1000),
    shape=st.lists(st.integers(0, 7), max_size=3).map(tuple),
    zipf=st.none() | st.floats(0, 8),
    seed=st.integers(0, 2**31),
)
def test_ids_have_the_shape_and_lie_in_the_table(
    rows: int, shape: tuple[int, ...], zipf: float | None, seed: int
) -> None:
    ids = sample_ids(rows, shape, zipf=zipf, generator=torch.Generator().manual_seed(seed))
    assert (ids.shape, ids.dtype) == (shape, torch.int64)
    assert bool(((ids >= 0) & (ids < rows)).all())
    again = sample_ids(rows, shape, zipf=zipf, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ids, again)


@pytest.mark.parametrize(("rows", "zipf"), [(0, None), (-1, 1.1), (3, -0.1), (3, float("nan")), (3, float("inf"))])
def test_what_cannot_be_drawn_is_refused(rows: int, zipf: float | None, generator: torch.Generator) -> None:
    with pytest.raises(ZooError):
        sample_ids(rows, (1,), zipf=zipf, generator=generator)


def test_histories_are_padded_on_the_right(generator: torch.Generator) -> None:
    histories = sample_histories(9, 4000, 6, zipf=0.9, generator=generator)
    assert (histories.shape, histories.dtype) == ((4000, 6), torch.int64)
    assert (int(histories.min()), int(histories.max())) == (0, 9)
    filled = histories != 0
    assert not bool((~filled[:, :-1] & filled[:, 1:]).any())  # no item after a padding
    lengths = torch.bincount(filled.sum(1), minlength=7).double() / 4000
    torch.testing.assert_close(lengths, torch.full((7,), 1 / 7, dtype=torch.float64), atol=0.03, rtol=0)
