"""Packed rows of codes and the methods that choose codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats import CODE_BITS, Codes, code_fit, code_row_bytes, pack_codes, unpack_codes
from recfx.formats.code_fit import find_codes, minmax_codes, sign_codes, unbiased_sign_codes
from recfx.learn.post_training import RaBitQ, minmax_rows, sign_rows

EPS = torch.finfo(torch.float32).eps


def draw_codes(data: st.DataObject, bits: int) -> Codes:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    rows, dim = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 140))
    codes = torch.randint(0, 1 << bits, (rows, dim), generator=rng).to(torch.uint8)
    return Codes(codes, torch.randn(rows, 1, generator=rng), torch.rand(rows, 1, generator=rng) + 0.1, bits)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(CODE_BITS))
def test_packing_loses_nothing(data: st.DataObject, bits: int) -> None:
    table = draw_codes(data, bits)
    dim = table.codes.shape[1]
    packed = pack_codes(table)
    assert packed.shape == (len(table.codes), code_row_bytes(bits, dim))
    assert (packed.shape[1] % 8, packed.shape[1] >= dim * bits / 8 + 8) == (0, True)
    for found, expected in zip(unpack_codes(packed, bits, dim), table, strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


def test_where_codes_lie() -> None:
    codes = torch.zeros(1, 20, dtype=torch.uint8)
    codes[0, 17] = 3
    packed = pack_codes(Codes(codes, torch.zeros(1, 1), torch.ones(1, 1), 2))  # 5 bytes, padded to 8
    assert packed[0, :8].tolist() == [0, 3 << 4, 0, 0, 0, 0, 0, 0]
    assert packed[0, 8:].view(torch.float32).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("codes", "bits", "match"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), 3, "8, 4, 2 or 1 bits"),
        (torch.zeros(2, 3), 8, "must be uint8"),
        (torch.zeros(2, 0, dtype=torch.uint8), 8, "must be uint8"),
        (torch.zeros(1, (1 << 16) + 1, dtype=torch.uint8), 8, "65,536"),
        (torch.full((2, 3), 4, dtype=torch.uint8), 2, "code 4 does not fit"),
    ],
)
def test_codes_that_cannot_be_packed(codes: torch.Tensor, bits: int, match: str) -> None:
    one = torch.ones(len(codes), 1)
    with pytest.raises(InputError, match=match):
        pack_codes(Codes(codes, one, one, bits))


def test_rows_of_another_length_are_refused() -> None:
    packed = pack_codes(Codes(torch.zeros(2, 3, dtype=torch.uint8), torch.ones(2, 1), torch.ones(2, 1), 1))
    with pytest.raises(InputError, match="rows of 65 codes"):
        unpack_codes(packed, 1, 65)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_each_rounding_loses(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    dim = data.draw(st.integers(1, 100))
    table = torch.randn(8, dim, generator=rng) * 10.0 ** data.draw(st.integers(-15, 15))
    exact = table.double()
    norms, magnitudes = exact.norm(dim=1), exact.abs().sum(1)
    room = 8 * EPS * norms
    for bits in CODE_BITS:
        codes = minmax_codes(table, bits)
        lost = (codes.values().double() - exact).abs()
        assert bool((lost <= codes.step.double() / 2 + 4 * EPS * exact.abs().amax(1, keepdim=True)).all())
    lost = (sign_codes(table).values().double() - exact).norm(dim=1)
    assert bool(
        (lost <= (norms.square() - magnitudes.square() / dim).clamp(min=0).sqrt() + math.sqrt(EPS) * room + room).all()
    )
    aligned = magnitudes / (norms * math.sqrt(dim))
    lost = (unbiased_sign_codes(table).values().double() - exact).norm(dim=1)
    assert bool((lost <= norms * (1 / aligned.square() - 1).clamp(min=0).sqrt() + norms * 1e-6).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 70), st.sampled_from(CODE_BITS))
def test_the_roundings_are_those_of_learning(seed: int, dim: int, bits: int) -> None:
    table = torch.randn(9, dim, generator=torch.Generator().manual_seed(seed))
    for own, theirs in ((sign_codes(table), sign_rows(table)), (minmax_codes(table, bits), minmax_rows(table, bits))):
        apart = (own.values() - theirs.dequantize()).abs()
        level = own.step + 4 * EPS * table.abs().amax(1, keepdim=True)
        assert int((own.codes != theirs.codes).sum()) <= 2  # halves between two codes
        assert bool((apart <= level).all())
    other = RaBitQ.encode(table, centre=torch.zeros(dim))
    own = unbiased_sign_codes(table @ other.rotation)
    torch.testing.assert_close(own.values(), other.table().dequantize(), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=80)
@given(st.data(), st.sampled_from(CODE_BITS), st.sampled_from(["row", "table", "symmetric"]))
def test_a_table_on_a_grid_is_found_again(data: st.DataObject, bits: int, kind: str) -> None:
    table = draw_codes(data, bits)
    lower, step = table.lower, table.step
    if kind != "row" and len(lower):
        lower, step = lower[:1], step[:1]
    if kind == "symmetric":
        lower = -step * ((1 << bits) - 1) / 2
    values = lower + step * table.codes.float()
    found = find_codes(values, bits)
    if not values.numel():
        assert found is None
        return
    largest = values.abs().amax(1, keepdim=True)
    assert found is not None
    assert bool(((found.values() - values).abs() <= 8 * EPS * largest).all())
    used = (table.codes - table.codes.amin(1, keepdim=True)).double()
    divided = torch.where(found.codes > 0, used / found.codes.double(), 0.0)  # a row may use only every other level
    assert bool((divided == divided.amax(1, keepdim=True) * (found.codes > 0)).all())


def test_a_table_on_no_grid() -> None:
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(9, 64, generator=rng)
    assert all(find_codes(table, bits) is None for bits in CODE_BITS)
    on_grid = sign_codes(table).values()
    assert find_codes(on_grid, 1) is not None
    on_grid[3, 4] *= 1.01
    assert find_codes(on_grid, 1) is None
    assert find_codes(minmax_codes(table, 4).values(), 2) is None


@pytest.mark.parametrize("rounding", [sign_codes, unbiased_sign_codes, lambda t: minmax_codes(t, 4)])
def test_blocks_are_joined(rounding: Callable[[torch.Tensor], Codes], monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    whole = rounding(table)
    monkeypatch.setattr(code_fit, "_BLOCK_VALUES", 12)
    parts = rounding(table)
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], parts[:3], strict=True))
    found = code_fit.find_codes(whole.values(), whole.bits)
    assert found is not None
    assert torch.equal(found.codes, whole.codes)
    assert rounding(table[:0]).codes.shape == (0, 6)


def test_rows_of_one_value_and_of_zeros() -> None:
    table = torch.tensor([[0.0, 0.0, 0.0], [2.5, 2.5, 2.5], [-1.0, 1.0, 1.0]])
    found = find_codes(table, 1)
    assert found is not None
    assert torch.equal(found.values(), table)
    assert unbiased_sign_codes(table[:1]).values().tolist() == [[0.0, 0.0, 0.0]]
    assert minmax_codes(table[:2], 4).values().tolist() == table[:2].tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tables_that_are_not_finite_are_refused(bad: float) -> None:
    table = torch.ones(3, 4)
    table[1, 2] = bad
    for rounding in (sign_codes, unbiased_sign_codes, lambda t: minmax_codes(t, 4)):
        with pytest.raises(InputError, match="row 1 of the table holds NaN or infinities"):
            rounding(table)
