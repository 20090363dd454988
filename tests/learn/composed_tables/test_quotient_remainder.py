"""Quotient-remainder tables: rows by their definition, fits, gradients, and native kernels."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import needs_kernels
from torch import nn

import recfx
from recfx.learn.composed_tables import QuotientRemainderTable

WAYS: tuple[Literal["multiply", "add"], ...] = ("multiply", "add")


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_rows_follow_the_definition(data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    collisions, combine = data.draw(st.integers(1, rows)), data.draw(st.sampled_from(WAYS))
    table = QuotientRemainderTable(rows, dim, collisions=collisions, combine=combine)
    m = -(-rows // collisions)
    for i in range(rows):
        r, q = table.remainders.weight[i % m], table.quotients.weight[i // m]
        torch.testing.assert_close(table(torch.tensor(i)), r + q if combine == "add" else r * q)


@pytest.mark.parametrize("combine", WAYS)
@pytest.mark.parametrize("rows", [40, 37])
def test_a_table_of_the_form_is_found_again(combine: Literal["multiply", "add"], rows: int) -> None:
    torch.manual_seed(0)
    wanted = QuotientRemainderTable(rows, 3, combine=combine, std=1.0).weight.detach()
    found = QuotientRemainderTable(rows, 3, combine=combine)
    found.fit(wanted)
    torch.testing.assert_close(found.weight, wanted, rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(WAYS), st.booleans())
def test_a_fit_is_a_minimum_of_the_weighted_squares(
    seed: int, combine: Literal["multiply", "add"], weighted: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    wanted = torch.randn(20, 2, generator=rng)
    counts = torch.randint(1, 9, (20,), generator=rng) if weighted else None
    table = QuotientRemainderTable(20, 2, combine=combine)
    table.fit(wanted, counts)

    def loss() -> torch.Tensor:
        share = torch.ones(20) if counts is None else counts / counts.sum() * 20
        return (share[:, None] * (table.weight - wanted).square()).mean()

    before = float(loss().detach())
    assert (
        before <= float(wanted.square().mean() if counts is None else (counts[:, None] * wanted.square()).mean()) + 1e-6
    )
    gradient = torch.autograd.grad(loss(), [table.quotients.weight])[0]  # solved last, exactly
    assert float(gradient.abs().max()) < 2e-2


def test_gradients_reach_both_factors() -> None:
    table = QuotientRemainderTable(30, 4)
    table(torch.tensor([1, 29])).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in table.parameters())


@needs_kernels
@pytest.mark.parametrize("combine", WAYS)
def test_native_kernels_run_it_as_two_lookups(combine: Literal["multiply", "add"]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuotientRemainderTable(1000, 8, combine=combine, std=1.0), nn.Linear(8, 1)).eval()
    ids = torch.randint(0, 1000, (70,))
    fast = recfx.optimize(model, "native", example_inputs=(ids,), measure=False)
    assert "torch" not in str(fast.placement)
    assert any(str(n.target) == "recfx.grouped_lookup.default" for n in fast.program.graph.nodes)
    for rows in (1, 15, 70):
        torch.testing.assert_close(fast(ids[:rows]), model(ids[:rows]).detach(), rtol=1e-5, atol=1e-6)
    with pytest.raises(recfx.RecfxError, match="id"):
        fast(torch.tensor([5000]))
