"""Dot products with packed codes: every instruction-set level against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import LEVELS, generator, lower, lower_everywhere, needs_kernels, program_of

from recfx.errors import InputError
from recfx.formats import Codes, pack_codes
from recfx.ops.hamming import code_dot, reference, round_queries

pytestmark = needs_kernels
BITS = (8, 4, 2, 1)


def table(rng: torch.Generator, rows: int, dim: int, bits: int) -> Codes:
    """A table of random codes and constants."""
    codes = torch.randint(0, 1 << bits, (rows, dim), generator=rng).to(torch.uint8)
    return Codes(codes, torch.randn(rows, 1, generator=rng), torch.rand(rows, 1, generator=rng), bits)


def agree(found: torch.Tensor, query: torch.Tensor, items: Codes, ids: torch.Tensor | None, query_bits: int) -> None:
    """Equal bit for bit, except for the scale of a sign, a sum in any order."""
    expected = reference(query, pack_codes(items), ids, items.bits, query_bits)
    if query_bits != 1:
        assert torch.equal(found, expected)
        return
    whole, scale = round_queries(query, query_bits)
    parts = (
        items.lower.double().abs() * whole.sum(1).abs() + items.step.double() * (items.codes.double() @ whole.T).abs()
    )
    terms = scale.double() * parts.T
    if ids is not None:
        rows = max(len(query), len(ids))
        terms = terms.expand(rows, -1).gather(1, ids.expand(rows, -1).long())
    assert found.shape == expected.shape
    off = (found.double() - expected.double()).abs()
    assert bool((off <= 6 * torch.finfo(torch.float32).eps * terms + 1e-37).all()), float((off - terms * 1e-6).max())


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_level_is_the_reference(data: st.DataObject) -> None:
    rng = generator(data.draw(st.integers(0, 2**32)))
    bits, query_bits = data.draw(st.sampled_from(BITS)), data.draw(st.sampled_from((8, 4, 1)))
    dim = data.draw(st.one_of(st.integers(1, 20), st.sampled_from((63, 64, 65, 127, 128, 200, 256, 300, 520))))
    rows, batch = data.draw(st.sampled_from((1, 3, 17, 128, 300, 600))), data.draw(st.integers(2, 6))  # 4: by panels
    items = table(rng, rows, dim, bits)
    query = torch.randn(batch, dim, generator=rng) * 10.0 ** data.draw(st.integers(-20, 20))
    if data.draw(st.booleans()):
        query[:, ::2] = 0
    how = data.draw(st.sampled_from(("all", "own", "shared")))
    count = data.draw(st.sampled_from((2, 5, 258)))
    inputs: tuple[torch.Tensor, ...] = (query,)
    state, ids = [pack_codes(items)], None
    if how == "own":
        ids = torch.randint(0, rows, (batch, count), generator=rng)
        ids = ids.int() if data.draw(st.booleans()) else ids
        inputs = (query, ids)
    elif how == "shared":
        ids = torch.randint(0, rows, (1, count), generator=rng)
        state = [*state, ids]

    def body(q: torch.Tensor, *rest: torch.Tensor) -> Any:
        own, packed = (rest[0], rest[1]) if how == "own" else (rest[1] if how == "shared" else None, rest[0])
        return code_dot(q, packed, own, bits, query_bits)

    for lowered in lower_everywhere(body, inputs, state):
        for sub in (slice(None), slice(0, 1)):
            cut = tuple(x[sub] for x in inputs)
            agree(lowered(*cut)[0], cut[0], items, cut[1] if how == "own" else ids, query_bits)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from(BITS), st.sampled_from((8, 4, 1)), st.sampled_from((1, 3)))
def test_one_query_serves_all_rows_of_ids(seed: int, bits: int, query_bits: int, count: int) -> None:
    rng = generator(seed)
    items = table(rng, 50, 70, bits)
    query, ids = torch.randn(1, 70, generator=rng), torch.randint(0, 50, (6, count), generator=rng)

    def body(i: torch.Tensor, packed: torch.Tensor, q: torch.Tensor) -> Any:
        return code_dot(q, packed, i, bits, query_bits)

    for lowered in lower_everywhere(body, (ids,), [pack_codes(items), query]):
        for cut in (ids, ids[:1]):
            agree(lowered(cut)[0], query, items, cut, query_bits)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from(BITS), st.sampled_from((1, 4, 9)), st.booleans())
def test_threads_and_batches_change_no_bit(seed: int, bits: int, batch: int, picked: bool) -> None:
    rng = generator(seed)
    items = pack_codes(table(rng, 1000, 70, bits))
    query, ids = torch.randn(batch, 70, generator=rng), torch.randint(0, 1000, (batch, 500), generator=rng)

    def body(q: torch.Tensor, i: torch.Tensor, packed: torch.Tensor) -> Any:
        return code_dot(q, packed, i if picked else None, bits, 8), i

    captured = program_of(body, (torch.cat([query] * 2), torch.cat([ids] * 2)), [items])
    before = torch.get_num_threads()
    try:
        for level in LEVELS:
            lowered = lower(captured, level)
            torch.set_num_threads(1)
            alone = lowered(query, ids)[0]
            assert torch.equal(
                lowered(query[:1], ids[:1])[0], alone[:1]
            )  # one query scans rows; for several, blocks of rows are unpacked
            for threads in (2, 3):
                torch.set_num_threads(threads)
                assert torch.equal(lowered(query, ids)[0], alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("query_bits", [8, 4, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_query_that_is_not_finite_scores_nan_and_no_other_does(bits: int, query_bits: int, bad: float) -> None:
    rng = generator(0)
    items, query = table(rng, 9, 12, bits), torch.randn(3, 12, generator=rng)
    query[1, 5] = bad
    expected = reference(query, pack_codes(items), None, bits, query_bits)
    assert expected.isnan().all(1).tolist() == [False, True, False]
    lowered = lower_everywhere(lambda q, t: code_dot(q, t, None, bits, query_bits), (query,), [pack_codes(items)])
    for level in lowered:
        assert torch.equal(level(query)[0].isnan(), expected.isnan())
        assert torch.equal(level(query.repeat(2, 1))[0].isnan(), expected.repeat(2, 1).isnan())


@pytest.mark.parametrize("bad", [-1, 9, 2**40])
def test_ids_outside_the_table_are_refused(bad: int) -> None:
    rng = generator(0)
    items, query = pack_codes(table(rng, 9, 12, 1)), torch.randn(2, 12, generator=rng)
    ids = torch.tensor([[0, 1], [8, bad]])
    with pytest.raises(IndexError, match="out of range"):
        code_dot(query, items, ids, 1, 1)
    for lowered in lower_everywhere(lambda q, i, t: code_dot(q, t, i, 1, 1), (query, ids.clamp(0, 8)), [items]):
        with pytest.raises(InputError, match="outside its table of 9 rows"):
            lowered(query, ids)


def test_ids_that_the_plan_reads_before_the_query() -> None:
    """They are in its first slot."""
    rng = generator(0)
    items, query = pack_codes(table(rng, 9, 12, 4)), torch.randn(2, 12, generator=rng)
    ids = torch.tensor([[0, 1], [8, 4]])
    for lowered in lower_everywhere(lambda i, q, t: (i * 2, code_dot(q, t, i, 4, 8)), (ids, query), [items]):
        doubled, scores = lowered(ids, query)
        assert torch.equal(doubled, ids * 2)
        assert torch.equal(scores, reference(query, items, ids, 4, 8))


@pytest.mark.parametrize("bits", BITS)
def test_queries_too_small_for_a_scale_score_zero(bits: int) -> None:
    rng = generator(0)
    items, query = table(rng, 9, 12, bits), torch.full((2, 12), 1e-41)
    query[1] = 0
    for lowered in lower_everywhere(lambda q, t: code_dot(q, t, None, bits, 8), (query,), [pack_codes(items)]):
        assert bool((lowered(query)[0] == 0).all())
