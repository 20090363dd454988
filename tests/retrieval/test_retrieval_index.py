"""The index against plain torch, its options, its growth, and its errors for bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn, rounded

from recfx.errors import InputError
from recfx.retrieval import Index

seeds = st.integers(0, 2**32)
relaxed = settings(deadline=None, max_examples=25)
OPTIONS = [
    (1, "table", 1),
    (1, "row", 1),
    *((bits, scales, 8) for bits in (1, 2, 4, 8) for scales in ("table", "row", "symmetric", "dimension")),
]


@pytest.mark.parametrize(("bits", "scales", "query_bits"), OPTIONS)
@relaxed
@given(seed=seeds, rows=st.integers(1, 70), dim=st.integers(1, 100), count=st.integers(0, 9), k=st.integers(1, 90))
def test_scores_are_dot_products_of_what_codes_stand_for(
    bits: int, scales: Any, query_bits: int, seed: int, rows: int, dim: int, count: int, k: int
) -> None:
    items, queries = drawn(seed, rows, dim), drawn(seed + 1, count, dim)
    index = Index.from_embeddings(items, bits, scales=scales, query_bits=query_bits)
    scores, ids = index.search(queries, k)
    assert scores.shape == ids.shape == (count, k)
    found = min(k, rows)
    assert bool((ids[:, found:] == -1).all())
    assert bool((scores[:, found:] == -torch.inf).all())
    if not count:
        return
    if scales == "dimension":  # the query is rounded after multiplication by the steps
        close = (queries @ index.decode().T).gather(1, ids[:, :found])
        torch.testing.assert_close(scores[:, :found], close, rtol=0.05, atol=0.1 * dim**0.5)
        return
    products = rounded(queries, query_bits) @ index.decode().T
    torch.testing.assert_close(scores[:, :found], products.topk(found).values, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores[:, :found], products.gather(1, ids[:, :found]), rtol=1e-4, atol=1e-3)


@relaxed
@given(seed=seeds, rows=st.integers(1, 300), dim=st.integers(1, 40), k=st.integers(1, 20))
def test_ties_go_to_the_lower_id(seed: int, rows: int, dim: int, k: int) -> None:
    codes = (drawn(seed, rows, dim) > 0).to(torch.uint8)
    asked = (drawn(seed + 1, 4, dim) > 0).to(torch.uint8)
    scores, ids = Index.from_codes(codes, 1, metric="hamming").search(asked, min(k, rows))
    distances = (asked[:, None] != codes[None]).sum(2)
    order = distances.sort(dim=1, stable=True).indices[:, : min(k, rows)]
    assert torch.equal(ids, order)
    assert torch.equal(scores, -distances.gather(1, order).float())


@relaxed
@given(seed=seeds, bits=st.sampled_from([1, 2, 4, 8]), dim=st.integers(1, 70))
def test_packed_rows_are_the_same_codes(seed: int, bits: int, dim: int) -> None:
    packed = torch.randint(0, 256, (20, -(-dim * bits // 8)), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))  # fmt: skip
    from_packed = Index.from_packed(packed, dim, bits)
    codes = from_packed.codes()
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    assert torch.equal(codes, ((packed[:, :, None] >> shifts) & ((1 << bits) - 1)).flatten(1)[:, :dim])
    queries = drawn(seed, 3, dim)
    for one, other in zip(
        from_packed.search(queries, 5), Index.from_codes(codes, bits).search(queries, 5), strict=True
    ):
        assert torch.equal(one, other)


@relaxed
@given(seed=seeds, scales=st.sampled_from(["table", "row"]))
def test_excluded_items_are_not_found(seed: int, scales: Any) -> None:
    rng = torch.Generator().manual_seed(seed)
    index = Index.from_embeddings(drawn(seed, 50, 24), 1, scales=scales)
    queries = drawn(seed + 1, 6, 24)
    seen = [torch.randperm(50, generator=rng)[: int(torch.randint(0, 51, (), generator=rng))] for _ in range(6)]
    scores, ids = index.search(queries, 50)
    for row, (left_scores, left_ids) in enumerate(zip(*index.search(queries, 50, exclude=seen), strict=True)):
        keep = ~torch.isin(ids[row], seen[row])
        assert torch.equal(left_ids[: int(keep.sum())], ids[row][keep])
        assert torch.equal(left_scores[: int(keep.sum())], scores[row][keep])
        assert bool((left_ids[int(keep.sum()) :] == -1).all())
    starts = torch.tensor([0, *map(len, seen)]).cumsum(0)
    assert torch.equal(
        index.search(queries, 7, exclude=(starts, torch.cat(seen)))[1], index.search(queries, 7, seen)[1]
    )


@relaxed
@given(seed=seeds, options=st.sampled_from(OPTIONS), k=st.integers(1, 60), left_out=st.integers(0, 50))
def test_shortlists_hold_what_searches_find(seed: int, options: Any, k: int, left_out: int) -> None:
    bits, scales, query_bits = options
    index = Index.from_embeddings(drawn(seed, 50, 24), bits, scales=scales, query_bits=query_bits)
    queries, seen = drawn(seed + 1, 3, 24), [torch.arange(left_out)] * 3
    found = index.shortlist(queries, k, seen)
    assert torch.equal(found.sort(1).values, index.search(queries, k, seen)[1].sort(1).values)


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e16])
def test_shortlists_refuse_what_searches_refuse(bits: int, metric: Any, bad: float) -> None:
    index, queries = Index.from_embeddings(drawn(0, 50, 24), bits, metric), drawn(1, 4, 24)
    queries[2, 5] = bad
    for call in (index.search, index.shortlist):
        with pytest.raises(InputError, match="row 2 of queries holds NaN, infinities"):
            call(queries, 3)
    with pytest.raises(InputError, match="k must be at least 1"):
        index.shortlist(drawn(1, 4, 24), 0)
    with pytest.raises(InputError, match="must have 24 columns"):
        index.shortlist(drawn(1, 4, 23), 3)


@pytest.mark.parametrize(
    ("bits", "scales"), [(1, "table"), (1, "row"), (4, "row"), (2, "symmetric"), (8, "table"), (2, "dimension")]
)
def test_growing_an_index_is_building_it(bits: int, scales: Any) -> None:
    items, queries = drawn(0, 100, 33), drawn(1, 5, 33)
    whole = Index.from_embeddings(items, bits, scales=scales)
    first = whole._store.grid.rows(torch.arange(21))
    if first.by_row:
        first = first.with_lower_ends()
        constants = (first.lower[:, None], first.step[:, None])
    else:
        constants = (first.lower, first.step)
    grown = Index.from_codes(whole.codes(torch.arange(21)), bits, *constants)
    for start in range(21, 100):
        assert grown.add(items[start : start + 1]).tolist() == [start]
    for one, other in zip(whole.search(queries, 30), grown.search(queries, 30), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("items", [1, 7, 63, 64, 65, 200])
def test_a_length_counts_the_items_that_can_be_found(items: int) -> None:
    """At sizes about those of a block, after additions, deletions (of one item twice too) and saving."""
    index = Index.from_embeddings(drawn(0, items, 16), 4)
    assert len(index) == index.next_id == items
    given = index.add(drawn(1, 3, 16))
    assert given.tolist() == [items, items + 1, items + 2]
    assert len(index) == index.next_id == items + 3
    index.delete(given[:2])
    assert len(index) == len(index.live_ids()) == items + 1
    assert index.next_id == items + 3
    assert int((index.search(drawn(2, 2, 16), items + 9)[1] >= 0).sum(1).max()) == len(index)


def test_deleted_items_are_found_no_more_and_updated_ones_by_their_new_values() -> None:
    items, queries = drawn(0, 200, 16), drawn(1, 4, 16)
    index = Index.from_embeddings(items, 4)
    gone = index.search(queries, 10)[1].flatten().unique()
    index.delete(gone)
    assert len(index) == 200 - len(gone)
    rest = index.live_ids()
    assert not torch.isin(rest, gone).any()
    fresh = Index.from_embeddings(items[rest], 4)
    assert torch.equal(index.search(queries, 10)[1], rest[fresh.search(queries, 10)[1]])
    index.update(gone, -items[gone])
    assert len(index) == 200
    changed = items.index_copy(0, gone, -items[gone])
    assert torch.equal(index.search(queries, 10)[1], Index.from_embeddings(changed, 4).search(queries, 10)[1])
    assert index.add(items[:3]).tolist() == [200, 201, 202]
    with pytest.raises(InputError, match="twice"):
        index.delete(torch.tensor([5, 5]))
    index.delete(torch.arange(203))
    assert bool((index.search(queries, 3)[1] == -1).all())


@pytest.mark.parametrize(("bits", "query_bits"), [(1, 1), (1, 8), (4, 8)])
def test_scales_of_rows_change_with_their_items(bits: int, query_bits: int) -> None:
    items, queries, ids = drawn(0, 60, 16), drawn(1, 4, 16), torch.arange(0, 60, 7)
    index = Index.from_embeddings(items, bits, scales="row", query_bits=query_bits)
    index.search(queries, 10)  # cached values of the former rows must not be used again
    index.update(ids, 9 * items[ids])
    index.add(5 * items[:5])
    changed = torch.cat([items.index_copy(0, ids, 9 * items[ids]), 5 * items[:5]])
    fresh = Index.from_embeddings(changed, bits, scales="row", query_bits=query_bits)
    for one, other in zip(index.search(queries, 10), fresh.search(queries, 10), strict=True):
        assert torch.equal(one, other)


def test_cosine_is_the_dot_product_of_rows_of_length_one() -> None:
    items, queries = drawn(0, 40, 12), drawn(1, 3, 12)
    unit = torch.nn.functional.normalize
    one = Index.from_embeddings(items * torch.rand(40, 1) * 5, 8, "cosine").search(queries * 7, 5)
    other = Index.from_embeddings(unit(items), 8).search(unit(queries), 5)
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_empty_indices_and_batches() -> None:
    empty = Index.from_embeddings(torch.empty(0, 8))
    scores, ids = empty.search(torch.ones(2, 8), 3)
    assert ids.tolist() == [[-1] * 3] * 2
    assert scores.tolist() == [[-torch.inf] * 3] * 2
    assert Index.from_embeddings(torch.ones(4, 8)).search(torch.empty(0, 8), 3)[1].shape == (0, 3)
    assert empty.search(torch.empty(0, 8), 3, exclude=[])[1].shape == (0, 3)
    assert Index.from_embeddings(torch.ones(4, 8), 8).search(torch.zeros(1, 8), 9)[1].tolist() == [
        [0, 1, 2, 3, *[-1] * 5]
    ]


FINE = torch.ones(4, 8)
BAD_ITEMS = {
    "NaN": torch.full((3, 8), torch.nan),
    "infinities": torch.tensor([[1.0, torch.inf]]),
    "beyond": torch.full((1, 4), 1e20),
    "floating-point": torch.ones(3, 8, dtype=torch.int64),
    r"\[n, d\]": torch.ones(8),
    "at least one column": torch.empty(3, 0),
}


@pytest.mark.parametrize("message", BAD_ITEMS)
def test_bad_embeddings(message: str) -> None:
    with pytest.raises(InputError, match=message):
        Index.from_embeddings(BAD_ITEMS[message])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Index.from_embeddings(FINE, 3), "1, 2, 4 or 8 bits"),
        (lambda: Index.from_embeddings(FINE, 4, query_bits=1), "do not fit"),
        (lambda: Index.from_embeddings(FINE, 1, "hamming", query_bits=8), "one scale for the table"),
        (lambda: Index.from_embeddings(FINE, 1, "l2"), "metric .* unknown"),  # type: ignore[arg-type]
        (lambda: Index.from_embeddings(torch.empty(0, 1 << 17)), "up to"),
        (lambda: Index.from_codes(FINE, 1), "uint8"),
        (lambda: Index.from_codes(torch.full((2, 8), 4, dtype=torch.uint8), 2), "does not fit"),
        (lambda: Index.from_codes(torch.zeros(2, 8, dtype=torch.uint8), 2, lower=0.0), "go together"),
        (lambda: Index.from_codes(torch.zeros(2, 8, dtype=torch.uint8), 2, 0.0, -1.0), "negative"),
        (lambda: Index.from_codes(torch.zeros(2, 8, dtype=torch.uint8), 2, torch.zeros(3, 1), torch.ones(3, 1)), "fit the codes"),
        (lambda: Index.from_packed(torch.zeros(2, 8, dtype=torch.uint8), 70, 1), "when packed"),
        (lambda: Index.from_embeddings(FINE).search(torch.ones(1, 9), 1), "8 columns"),
        (lambda: Index.from_embeddings(FINE).search(torch.full((1, 8), torch.nan), 1), "NaN"),
        (lambda: Index.from_embeddings(FINE).search(torch.ones(1, 8, dtype=torch.int32), 1), "floating-point"),
        (lambda: Index.from_embeddings(FINE).search(FINE.byte(), 1), r"queries are codes .* 8 bits(.|\n)*query_bits=1"),
        (lambda: Index.from_embeddings(FINE, query_bits=1).search(FINE.byte() * 2, 1), "row 0 of queries holds codes above 1"),
        (lambda: Index.from_embeddings(FINE, query_bits=1).search(FINE[:, :7].byte(), 1), r"codes of queries must be \[n, 8\]"),
        (lambda: Index.from_embeddings(1e9 * torch.eye(8), 8, scales="dimension").search(1e12 * FINE, 1), "times the steps"),
        (lambda: Index.from_embeddings(FINE).search(FINE, 0), "k must be"),
        (lambda: Index.from_embeddings(FINE).search(FINE[:1], 1, exclude=[torch.tensor([4])]), "id 4"),
        (lambda: Index.from_embeddings(FINE).search(FINE[:1], 1, exclude=[torch.tensor([-1])]), "id -1"),
        (lambda: Index.from_embeddings(FINE).search(FINE[:1], 1, exclude=[torch.tensor([0.5])]), "integers"),
        (lambda: Index.from_embeddings(FINE).search(FINE[:1], 1, exclude=[]), "0 lists"),
        (lambda: Index.from_embeddings(FINE).search(FINE[:1], 1, exclude=(torch.tensor([0, 2]), torch.tensor([1]))), "row starts"),
        (lambda: Index.from_embeddings(FINE).delete(torch.tensor([4])), "the item 4 does not exist"),
        (lambda: Index.from_embeddings(FINE).update(torch.tensor([1, 1]), FINE[:2]), "each once"),
        (lambda: Index.from_embeddings(FINE).add(torch.ones(1, 9)), "8 columns"),
    ],
)  # fmt: skip
def test_bad_calls(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
