"""Row-wise tables: torch's bytes, the bound of the error, and tables that cannot be stored."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats import ROW_BITS, decode_rows, encode_rows, row_bytes
from recfx.formats.rowwise import _vanished


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def tables(draw: st.DrawFn, *, least_step: float = 1e-4) -> torch.Tensor:
    """Rows of different spread and offset, including constant rows and rows of zeros."""
    rng = generator(draw(st.integers(0, 2**32)))
    rows, dim = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    scale = draw(st.floats(least_step, 1e3))
    shift = draw(st.sampled_from([0.0, 1.0, -30.0]))
    table = torch.randn(rows, dim, generator=rng) * scale + shift
    if draw(st.booleans()):
        table[0] = draw(st.sampled_from([0.0, 0.1, -7.3]))
    return table


def steps(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """The scale of each row, [rows, 1]."""
    at = row_bytes(bits, dim) - 4
    return packed[:, at : at + 2].clone(memory_format=torch.contiguous_format).view(torch.float16).float()


def squared_error(table: torch.Tensor, packed: torch.Tensor, bits: int) -> torch.Tensor:
    return (decode_rows(packed, bits, table.shape[1]) - table).double().square().sum(1)


@given(table=tables(), bits=st.sampled_from(ROW_BITS))
def test_a_row_has_the_bytes_of_the_format(table: torch.Tensor, bits: int) -> None:
    packed = encode_rows(table, bits)
    rows, dim = table.shape
    assert packed.dtype is torch.uint8
    assert tuple(packed.shape) == (rows, math.ceil(dim * bits / 8) + 4)


@given(table=tables(), bits=st.sampled_from([8, 4, 2]))
def test_no_value_is_further_off_than_half_a_step(table: torch.Tensor, bits: int) -> None:
    dim = table.shape[1]
    packed = encode_rows(table, bits)
    error = (decode_rows(packed, bits, dim).double() - table.double()).abs()
    step = steps(packed, bits, dim).abs().double()
    # The loss at the ends of the range by rounding scale and bias to half precision (11 significant bits, 2**-25 at
    # least).
    low = table.double().amin(1, keepdim=True).abs()
    rounding = ((1 << bits) - 1) * (step * 2**-11 + 2**-25) + low * 2**-11 + 2**-25
    float32 = table.double().abs().amax(1, keepdim=True) * 2**-21
    assert bool((error <= step / 2 + rounding + float32).all())


@given(data=st.data(), bits=st.sampled_from([4, 2]))
def test_bytes_equal_those_of_torch(data: st.DataObject, bits: int) -> None:
    rng = generator(data.draw(st.integers(0, 2**32)))
    rows, groups = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 12))
    scale = data.draw(st.sampled_from([1e-4, 1e-2, 1.0, 100.0, 1e4]))
    shift = data.draw(st.sampled_from([0.0, 3.0, -20.0]))
    table = torch.randn(rows, groups * (8 // bits), generator=rng).clamp(-6, 6) * scale + shift
    if data.draw(st.booleans()):
        table[0] = table[0, 0]
    prepack = getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_prepack")
    assert torch.equal(encode_rows(table, bits), prepack(table))


@pytest.mark.parametrize("bits", [4, 2])
def test_torch_reads_what_is_packed(bits: int) -> None:
    table = torch.randn(50, 32, generator=generator(0))
    packed = encode_rows(table, bits, refine=True)
    lookup = getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_rowwise_offsets")
    ids = torch.randint(0, 50, (40,), generator=generator(1))
    offsets = torch.arange(0, 41, 4)
    found = lookup(packed, ids, offsets, include_last_offset=True)
    want = decode_rows(packed, bits, 32)[ids].reshape(10, 4, 32).sum(1)
    torch.testing.assert_close(found, want)


def test_eight_bits_of_torch_differ_in_the_width_of_scale_and_bias_alone() -> None:
    table = torch.randn(30, 12, generator=generator(0))
    theirs, ours = torch.ops.quantized.embedding_bag_byte_prepack(table), encode_rows(table, 8)
    assert theirs.shape[1] == ours.shape[1] + 4
    values = torch.ops.quantized.embedding_bag_byte_unpack(theirs)
    # The largest code times the rounding error of the scale in half precision, plus the rounding error of the bias.
    limit = steps(ours, 8, 12) * (0.5 + 0.5 + 255 * 2**-11) + table.abs().amax(1, keepdim=True) * 2**-10
    assert bool(((decode_rows(ours, 8, 12) - values).abs() <= limit).all())


@given(table=tables(), bits=st.sampled_from(ROW_BITS))
def test_refining_never_raises_the_squared_error(table: torch.Tensor, bits: int) -> None:
    plain, refined = encode_rows(table, bits), encode_rows(table, bits, refine=True)
    before, after = squared_error(table, plain, bits), squared_error(table, refined, bits)
    # both sums are compared in float32 by the encoder
    slack = table.double().square().sum(1) * 2**-40
    assert bool((after <= before * (1 + 1e-5) + slack).all())


@pytest.mark.parametrize(("bits", "at_most"), [(4, 1.0), (2, 0.6)])
@pytest.mark.parametrize("power", [1, 3])
def test_refining_is_at_least_as_good_as_the_greedy_search_of_torch(bits: int, at_most: float, power: int) -> None:
    table = torch.randn(500, 64, generator=generator(power)) ** power
    greedy = getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_prepack")(table, optimized_qparams=True)
    ours = squared_error(table, encode_rows(table, bits, refine=True), bits).mean()
    assert ours <= at_most * squared_error(table, greedy, bits).mean()


@given(table=tables())
def test_two_levels_are_the_best_of_all_cuts(table: torch.Tensor) -> None:
    found = squared_error(table, encode_rows(table, 1), 1)
    ordered = table.double().sort(1).values
    best = torch.full((len(table),), float("inf"), dtype=torch.float64)
    for cut in range(1, table.shape[1] + 1):
        parts = [part for part in (ordered[:, :cut], ordered[:, cut:]) if part.shape[1]]
        best = best.minimum(sum((p - p.mean(1, keepdim=True)).square().sum(1) for p in parts))  # type: ignore[arg-type]
    # The two values are rounded to half precision: so much per element, squared.
    rounding = table.shape[1] * (table.double().abs().amax(1) * 2**-9 + 2**-23).square()
    assert bool((found <= best + rounding + 2 * (best * rounding).sqrt()).all())


def test_two_levels_of_a_row_of_two_values_are_those() -> None:
    table = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0, 8.0]])
    assert torch.equal(decode_rows(encode_rows(table, 1), 1, 5), table)


@pytest.mark.parametrize("bits", ROW_BITS)
@pytest.mark.parametrize("dim", [1, 3, 5, 8])
def test_one_row_of_any_width_is_read(bits: int, dim: int) -> None:
    table = torch.randn(4, dim, generator=generator(dim))
    packed = encode_rows(table, bits)
    whole = decode_rows(packed, bits, dim)
    assert torch.equal(decode_rows(packed[2:3], bits, dim), whole[2:3])
    assert torch.equal(decode_rows(packed[2], bits, dim), whole[2])


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("bits", ROW_BITS)
def test_blocks_leave_no_trace(bits: int, refine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(23, 6, generator=generator(3))
    whole = encode_rows(table, bits, refine=refine)
    monkeypatch.setattr("recfx.formats.rowwise._BLOCK_VALUES", 24)
    assert torch.equal(encode_rows(table, bits, refine=refine), whole)


@pytest.mark.parametrize("bits", ROW_BITS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e5, -7e4])
@pytest.mark.parametrize("refine", [False, True])
def test_what_half_precision_cannot_hold_is_refused(bits: int, bad: float, refine: bool) -> None:
    table = torch.randn(5, 4, generator=generator(0))
    table[3] = bad
    with pytest.raises(InputError, match="row 3"):
        encode_rows(table, bits, refine=refine)


def test_a_scale_beyond_half_precision_is_refused() -> None:
    with pytest.raises(InputError, match="row 0"):
        encode_rows(torch.tensor([[-65000.0, 65000.0]]), 1)


@pytest.mark.parametrize("bits", ROW_BITS)
def test_values_too_close_for_a_scale_are_refused(bits: int) -> None:
    table = torch.rand(5, 4, generator=generator(0)) * 1e-8
    with pytest.raises(InputError, match="too close"):
        encode_rows(table, bits)


@pytest.mark.parametrize("bits", ROW_BITS)
def test_rows_that_vanish_beside_large_ones_are_no_error(bits: int) -> None:
    table = torch.rand(5, 4, generator=generator(0))
    table[2] *= 1e-8
    packed = encode_rows(table, bits)
    assert float(decode_rows(packed, bits, 4)[2].abs().max()) <= 1e-7


def test_a_bias_that_rounds_to_the_maximum_is_no_lost_scale() -> None:
    table = torch.tensor([[0.99992, 1.0, 0.99995]])
    assert decode_rows(encode_rows(table, 8), 8, 3).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("bits", ROW_BITS)
def test_tables_without_rows_are_tables(bits: int) -> None:
    packed = encode_rows(torch.empty(0, 6), bits)
    assert decode_rows(packed, bits, 6).shape == (0, 6)


@pytest.mark.parametrize("table", [torch.randn(4), torch.ones(3, 2, dtype=torch.int64), torch.randn(3, 0)])
def test_what_is_no_table_is_refused(table: torch.Tensor) -> None:
    with pytest.raises(InputError, match="matrix"):
        encode_rows(table, 8)


def test_other_widths_are_refused() -> None:
    with pytest.raises(InputError, match="not 3"):
        encode_rows(torch.randn(2, 2), 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_tables_of_other_dtypes_are_packed_from_their_values(dtype: torch.dtype) -> None:
    table = torch.randn(6, 8, generator=generator(0)).to(dtype)
    assert torch.equal(encode_rows(table, 4), encode_rows(table.float(), 4))


def test_a_parameter_is_packed_without_a_gradient() -> None:
    packed = encode_rows(torch.nn.Parameter(torch.randn(3, 4)), 4, refine=True)
    assert not packed.requires_grad


@pytest.mark.parametrize(("other", "span"), [(0.8, 0.0), (0.75, 0.0), (0.7, 0.3)])
def test_a_row_is_lost_if_its_bias_is_wrong_by_more_than_a_quarter(other: float, span: float) -> None:
    row = torch.tensor([[1.0, other]])
    assert _vanished(row, row[:, 1:]) == pytest.approx(span)
