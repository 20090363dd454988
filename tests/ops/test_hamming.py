"""Scores over packed codes: the reference against floating-point arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats import CODE_BITS, Codes, pack_codes
from recfx.ops.hamming import QUERY_BITS, code_dot, round_queries


def draw(seed: int, rows: int, dim: int, bits: int) -> tuple[torch.Tensor, Codes]:
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, dim), generator=rng).to(torch.uint8)
    items = Codes(codes, torch.randn(rows, 1, generator=rng), torch.rand(rows, 1, generator=rng), bits)
    return torch.randn(5, dim, generator=rng), items


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 20),
    st.integers(1, 90),
    st.sampled_from(CODE_BITS),
    st.sampled_from(QUERY_BITS),
)
def test_scores_are_products_of_what_the_codes_stand_for(
    seed: int, rows: int, dim: int, bits: int, query_bits: int
) -> None:
    query, items = draw(seed, rows, dim, bits)
    whole, scale = round_queries(query, query_bits)
    most = 1 if query_bits == 1 else (1 << (query_bits - 1)) - 1
    assert torch.equal(whole, whole.round())
    assert float(whole.abs().max()) == most
    if query_bits != 1:
        assert bool(((scale * whole - query).abs() <= scale * 0.5001).all())
    values = items.values().double()
    expected = (scale * whole) @ values.T
    room = 1e-5 * (scale * whole).abs() @ (items.lower.abs() + items.step * items.codes).double().T + 1e-6
    packed = pack_codes(items)
    found = code_dot(query, packed, None, bits, query_bits)
    assert found.dtype is torch.float32
    assert bool(((found - expected).abs() <= room).all())
    ids = torch.randint(0, rows, (5, 3), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(code_dot(query, packed, ids, bits, query_bits), found.gather(1, ids))
    assert torch.equal(code_dot(query, packed, ids[:1].int(), bits, query_bits), found[:, ids[0]])
    assert torch.equal(code_dot(query[:1], packed, ids, bits, query_bits), found[0][ids])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 140))
def test_signs_against_signs_are_the_hamming_distance(seed: int, dim: int) -> None:
    query, items = draw(seed, 7, dim, 1)
    signs = Codes(items.codes, -torch.ones(7, 1), torch.full((7, 1), 2.0), 1)
    apart = ((query > 0)[:, None] != items.codes.bool()).sum(2)
    scale = query.abs().mean(1, keepdim=True)
    torch.testing.assert_close(code_dot(query, pack_codes(signs), None, 1, 1), scale * (dim - 2 * apart))


def test_the_fake_kernel_knows_the_shape() -> None:
    query, items = draw(0, 7, 12, 4)
    ids = torch.zeros(5, 3, dtype=torch.int64)
    for given_ids in (None, ids, ids[:1]):
        real = code_dot(query, pack_codes(items), given_ids, 4, 8)
        meta = code_dot(
            query.to("meta"), pack_codes(items).to("meta"), None if given_ids is None else given_ids.to("meta"), 4, 8
        )
        assert (meta.shape, meta.dtype) == (real.shape, real.dtype)
    one = code_dot(query[:1].to("meta"), pack_codes(items).to("meta"), ids.to("meta"), 4, 8)
    assert one.shape == (5, 3)


def test_rows_of_another_width_are_refused() -> None:
    query, items = draw(0, 7, 65, 1)
    with pytest.raises(InputError, match="rows of 12 codes"):
        code_dot(query[:, :12], pack_codes(items), None, 1, 8)
