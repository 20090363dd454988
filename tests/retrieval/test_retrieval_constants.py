"""Constants of codes from a caller: symmetric rows are recognised, other rows can be added, and the index copies all
constants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn, rounded

from recfx.retrieval import Index

seeds = st.integers(0, 2**32)
relaxed = settings(deadline=None, max_examples=25)


@relaxed
@given(seed=seeds, bits=st.sampled_from([1, 2, 4, 8]), skewed=st.booleans(), update=st.booleans())
def test_rows_with_constants_of_their_own_join_symmetric_ones_and_the_other_way_round(
    seed: int, bits: int, skewed: bool, update: bool
) -> None:
    codes = torch.randint(0, 1 << bits, (50, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    step = drawn(seed, 50, 1).abs()
    lower = -((1 << bits) - 1) / 2 * step
    # The lower ends of the first or of the last rows differ.
    lower[slice(None, 30) if skewed else slice(30, None)] += 0.5
    whole = Index.from_codes(codes, bits, lower, step, query_bits=8)
    parts = Index.from_codes(codes[:30], bits, lower[:30], step[:30], query_bits=8)
    assert parts._store.grid.kind == ("row" if skewed else "symmetric")
    parts.search(drawn(seed, 1, 20), 3)
    parts.add(codes[30:], lower[30:], step[30:])
    if update:
        swapped = torch.arange(50).flip(0)
        parts.update(swapped, codes, lower, step)
        whole = Index.from_codes(codes[swapped], bits, lower[swapped], step[swapped], query_bits=8)
    assert parts._store.grid.kind == "row"
    for one, other in zip(whole.search(drawn(seed, 3, 20), 50), parts.search(drawn(seed, 3, 20), 50), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 1), (1, 8), (8,)], ids=str)
@pytest.mark.parametrize("about_zero", [True, False])
def test_constants_are_the_callers_no_longer(shape: tuple[int, ...], about_zero: bool) -> None:
    codes, queries = torch.ones(32, 8, dtype=torch.uint8), drawn(0, 2, 8)
    step = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    lower = -1.5 * step if about_zero else -step
    index = Index.from_codes(codes, 2, lower, step)
    before = index.search(queries, 32)
    step.mul_(7)
    lower.mul_(3)
    for one, other in zip(before, index.search(queries, 32), strict=True):
        assert torch.equal(one, other)


def test_constants_have_room_for_whole_blocks() -> None:
    """Searches read constants sixteen at a time."""
    codes = torch.randint(0, 2, (37, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index = Index.from_codes(codes, 1, -torch.rand(37, 1), torch.rand(37, 1))
    for query_bits in (1, 8):
        index.query_bits = query_bits
        problem = index._problem(drawn(0, 1, 8), 3, None)
        for constant in (problem.scale, problem.bias):
            assert constant is not None
            assert constant.untyped_storage().nbytes() - 4 * constant.storage_offset() >= 48 * 4


@pytest.mark.parametrize("query_bits", [1, 8])
@relaxed
@given(seed=seeds, dim=st.integers(1, 70), slip=st.sampled_from([0.0, 2.0**-23, 2.0**-22]))
def test_symmetric_constants_are_kept_as_steps(query_bits: int, seed: int, dim: int, slip: float) -> None:
    """Constants of a trained quantiser, with lower ends that are rounded or not."""
    codes = torch.randint(0, 2, (60, dim), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    step = drawn(seed, 60, 1).abs() + 0.1
    index = Index.from_codes(codes, 1, -step / 2 * (1 + slip), step, query_bits=query_bits)
    assert index.nbytes == 64 * 4 * -(-dim // 32) + 4 * 60 + 4
    queries = drawn(seed + 1, 4, dim)
    products = rounded(queries, query_bits) @ ((codes.float() - 0.5) * step).T
    torch.testing.assert_close(index.search(queries, 60)[0], products.topk(60).values, rtol=1e-4, atol=1e-3)
    asked = (queries > 0).to(torch.uint8)
    if query_bits == 1:
        products = (2.0 * asked - 1) @ ((codes.float() - 0.5) * step).T
        torch.testing.assert_close(index.search(asked, 60)[0], products.topk(60).values, rtol=1e-4, atol=1e-3)
