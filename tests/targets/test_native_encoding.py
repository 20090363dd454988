"""The kernel that packs rows gives the bits of the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats.rowwise import encode_new_rows, encode_rows
from recfx.kernels.encoding import KERNEL_BITS, pack_new_rows
from recfx.kernels.library import library, missing
from recfx.kernels.memory import address

pytestmark = pytest.mark.skipif(missing() is not None, reason="the kernels were not built")


@given(
    bits=st.sampled_from(KERNEL_BITS),
    rows=st.integers(0, 20),
    columns=st.one_of(st.integers(1, 40), st.sampled_from([64, 255, 256, 257, 600])),
    exponent=st.integers(-12, 5),
    shift=st.one_of(st.just(0.0), st.floats(-6e4, 6e4, width=32)),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 2**30),
)
def test_bits_are_those_of_the_reference(
    bits: int, rows: int, columns: int, exponent: int, shift: float, zeros: float, seed: int
) -> None:
    """Also for rows whose range vanishes, subnormal scales, and zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, columns, generator=generator) * 10.0**exponent + shift
    table[torch.rand(rows, columns, generator=generator) < zeros / 2] = 0.0
    table[torch.rand(rows, columns, generator=generator) < zeros / 2] = -0.0
    try:
        want = encode_new_rows(table, bits)
    except InputError:
        with pytest.raises(InputError, match="of the table holds"):
            pack_new_rows(table, bits)
        return
    assert torch.equal(pack_new_rows(table, bits), want)
    assert torch.equal(pack_new_rows(table.T.contiguous().T, bits), want)


@pytest.mark.parametrize("bits", KERNEL_BITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e9, -7e4])
@pytest.mark.parametrize("column", [0, 17, 39])
def test_numbers_beyond_half_precision_are_refused(bits: int, value: float, column: int) -> None:
    rows = torch.randn(5, 40)
    rows[3, column] = value
    with pytest.raises(InputError, match="row 3 of the table"):
        pack_new_rows(rows, bits)


def test_other_formats_take_the_reference() -> None:
    rows = torch.randn(7, 20)
    for bits, refine in ((1, False), (8, True), (4, True)):
        assert torch.equal(pack_new_rows(rows, bits, refine=refine), encode_rows(rows, bits, refine=refine))


@pytest.mark.parametrize("bits", KERNEL_BITS)
@pytest.mark.parametrize("columns", [1, 2, 3, 255, 256, 257])
def test_rows_of_few_numbers(bits: int, columns: int) -> None:
    """One number is the fewest; blocks of 256 are packed at a time."""
    rows = torch.linspace(-3, 5, 4 * columns).reshape(4, columns)
    assert torch.equal(pack_new_rows(rows, bits), encode_new_rows(rows, bits))


@pytest.mark.parametrize("bits", [-8, 0, 1, 3, 5, 7, 9, 16, 32])
@pytest.mark.parametrize("count", [0, 3])
def test_other_bits_are_refused(bits: int, count: int) -> None:
    """The kernel itself writes nothing."""
    rows, packed = torch.randn(count, 8), torch.full((count, 64), 7, dtype=torch.uint8)
    assert library().calls["recfx_encode_rows"](bits, address(rows), count, 8, address(packed)) == -2
    assert bool((packed == 7).all())


@pytest.mark.parametrize("bits", [*KERNEL_BITS, 1])
@pytest.mark.parametrize("count", [0, 3])
def test_rows_without_numbers_are_refused(bits: int, count: int) -> None:
    """The kernel itself reads nothing of them either."""
    rows = torch.empty(count, 0)
    with pytest.raises(InputError, match="matrix with columns"):
        pack_new_rows(rows, bits)
    packed = torch.full((count, 4), 7, dtype=torch.uint8)
    assert library().calls["recfx_encode_rows"](bits, address(rows), count, 0, address(packed)) == -2
    assert bool((packed == 7).all())
