"""Tensor-train tables: rows by their definition, decompositions, sizes, and the compiled form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import needs_kernels
from torch import nn

import recfx
from recfx.learn.composed_tables import TensorTrainTable
from recfx.learn.composed_tables.tensor_train import digits_of, factors_of


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**8))
def test_digits_cover_all_rows_and_are_balanced(rows: int) -> None:
    found = digits_of(rows)
    assert math.prod(found) >= rows
    assert max(found) <= 2 * rows ** (1 / 3) + 2
    assert math.prod(found) <= rows + 3 * max(found) ** 2


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000))
def test_factors_multiply_to_the_columns(dim: int) -> None:
    found = factors_of(dim)
    assert math.prod(found) == dim
    assert min(found) >= 1


def test_factors_are_as_equal_as_possible() -> None:
    assert [sorted(factors_of(dim)) for dim in (64, 16, 12, 7)] == [[4, 4, 4], [2, 2, 4], [2, 2, 3], [1, 1, 7]]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 60), st.sampled_from([1, 6, 8]), st.integers(1, 3))
def test_rows_follow_the_definition(rows: int, dim: int, rank: int) -> None:
    table = TensorTrainTable(rows, dim, rank=rank, std=1.0)
    (n1, n2, n3), (d1, d2, d3) = table.digits, table.columns
    assert n1 * n2 * n3 >= rows
    a, b, c = (core.weight for core in table.cores)
    for i in range(rows):
        first = a[i // (n2 * n3)].reshape(d1, rank)
        second = b[i // n3 % n2].reshape(rank, d2, rank)
        third = c[i % n3].reshape(rank, d3)
        expected = torch.einsum("ar,rbs,sc->abc", first, second, third).flatten()
        torch.testing.assert_close(table(torch.tensor(i)), expected, rtol=1e-4, atol=1e-5)


def test_a_table_of_the_rank_is_found_again_and_others_are_close_to_the_best() -> None:
    torch.manual_seed(0)
    wanted = TensorTrainTable(64, 8, rank=2, std=1.0).weight.detach()
    found = TensorTrainTable(64, 8, rank=2)
    found.fit(wanted)
    torch.testing.assert_close(found.weight, wanted, rtol=1e-3, atol=1e-3)
    other = torch.randn(60, 8)
    errors = []
    for rank in (1, 2, 4, 8, 32):
        made = TensorTrainTable(60, 8, rank=rank)
        made.fit(other)
        errors.append(float((made.weight - other).detach().square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


def test_initial_rows_have_the_asked_standard_deviation() -> None:
    torch.manual_seed(0)
    assert float(TensorTrainTable(4000, 16, std=0.05).weight.std()) == pytest.approx(0.05, rel=0.5)


@needs_kernels
def test_the_compiled_form_gives_the_same_rows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(TensorTrainTable(1000, 8, rank=4, std=1.0), nn.Linear(8, 1)).eval()
    ids = torch.randint(0, 1000, (70,))
    fast = recfx.optimize(model, "native", example_inputs=(ids,), measure=False)
    for rows in (1, 15, 70):
        torch.testing.assert_close(fast(ids[:rows]), model(ids[:rows]).detach(), rtol=1e-4, atol=1e-5)
