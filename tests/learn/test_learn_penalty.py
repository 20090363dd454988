"""The penalty of used rows against the penalty of gathered rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.learn.penalty import row_penalty


@settings(deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), used=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_penalty_is_that_of_the_gathered_rows(rows: int, columns: int, used: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, columns, dtype=torch.float64, generator=generator, requires_grad=True)
    ids = torch.randint(rows, (used,), generator=generator)
    want = table[ids].square().sum() / 2
    got = row_penalty(table, torch.bincount(ids, minlength=rows))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, table), torch.autograd.grad(want, table))


def test_penalty_has_its_gradient_and_that_one_too() -> None:
    table = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([2, 0, 1, 5])
    assert torch.autograd.gradcheck(row_penalty, (table, counts))
    assert torch.autograd.gradgradcheck(row_penalty, (table, counts))


def test_counts_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a table"):
        row_penalty(torch.ones(3, 2), torch.ones(2))
