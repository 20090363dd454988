"""Bounds about the mean row: rounded values, stored values, and the constant that searches may omit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import DIM, blocks, seeds
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import BITS, CentredRowBounds, QuantizedTable, make_bounds, make_quantizer
from recfx.learn.post_training import centred_rows, round_rows


@given(x=blocks(torch.float64), y=blocks(torch.float64), momentum=st.floats(0, 0.99))
def test_the_centre_follows_the_mean_row(x: Tensor, y: Tensor, momentum: float) -> None:
    bounds = CentredRowBounds(1, DIM, momentum=momentum).double()
    bounds.observe(x)
    torch.testing.assert_close(bounds.centre, x.mean(0, keepdim=True))
    bounds.observe(y)
    want = momentum * x.mean(0, keepdim=True) + (1 - momentum) * y.mean(0, keepdim=True)
    torch.testing.assert_close(bounds.centre, want, rtol=1e-7, atol=1e-9 * float(x.abs().max() + y.abs().max()))


@given(x=blocks(torch.float64), bits=st.sampled_from(BITS))
def test_what_is_left_of_a_row_is_rounded_as_rows_are(x: Tensor, bits: int) -> None:
    quantizer = make_quantizer(bits, "ste", "centred-row", dim=DIM).double()
    quantizer(x)
    centre = quantizer.bounds.centre
    assert centre is not None
    want = round_rows(x - centre, bits)
    found = quantizer.eval().table(x)
    assert torch.equal(found.codes, want.codes)
    torch.testing.assert_close(found.dequantize(), want.dequantize() + centre)
    torch.testing.assert_close(quantizer(x), found.dequantize())
    assert found.step.shape == (len(x), 1)
    assert found.packed_bytes() == want.packed_bytes() + 4 * DIM
    after = centred_rows(x, bits)
    assert torch.equal(after.codes, found.codes)


@given(seed=seeds(), rows=st.integers(2, 30))
def test_items_rank_the_same_without_their_centre(seed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(rows, DIM, generator=generator, dtype=torch.float64) + 1 for _ in range(2))
    table = centred_rows(items, 1)
    without = table.lower + table.step * table.codes
    difference = users @ table.dequantize().T - users @ without.T
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))


def test_the_centre_spares_signs_that_all_say_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(200, 32, generator=generator) + 2
    off = {
        name: float((rounded.dequantize() - items).square().mean())
        for name, rounded in (("rows", round_rows(items, 1)), ("centred", centred_rows(items, 1)))
    }
    assert off["centred"] < 0.5 * off["rows"]


def test_no_gradient_passes_through_the_centre() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, 1.0]], requires_grad=True)
    quantizer = make_quantizer(1, "ste", "centred-row", dim=3, bounds_options={"through": False})
    quantizer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(2, 3))


def test_an_empty_table_has_no_centre_and_needs_none() -> None:
    assert centred_rows(torch.empty(0, 4), 1).codes.shape == (0, 4)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="columns"):
        make_bounds("centred-row", 1)
    with pytest.raises(InputError, match="momentum"):
        CentredRowBounds(1, 3, momentum=1.0)
    bounds = CentredRowBounds(1, 3)
    with pytest.raises(InputError, match="3 dimensions"):
        bounds.observe(torch.ones(2, 4))
    with pytest.raises(InputError, match="centre"):
        make_quantizer(1, "ste", "centred-row", dim=3).eval()(torch.ones(2, 4))
    codes, one = torch.zeros(2, 3, dtype=torch.uint8), torch.ones(())
    with pytest.raises(InputError, match="centre"):
        QuantizedTable(codes, one, one, 1, torch.ones(3))
