"""Two stages against exact search: what the shortlist, its calibration and the bound promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.retrieval import TwoStageIndex

relaxed = settings(deadline=None, max_examples=25)


def drawn(seed: int, rows: int, dim: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=rng) * torch.rand(rows, 1, generator=rng)


@relaxed
@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from([1, 2, 4, 8]),
    scales=st.sampled_from([None, "table", "row", "symmetric", "dimension"]),
    half=st.booleans(),
    k=st.integers(1, 12),
    leave_out=st.booleans(),
    metric=st.sampled_from(["ip", "cosine"]),
)
def test_the_bound_finds_what_exact_search_finds(
    seed: int, bits: int, scales: Any, half: bool, k: int, leave_out: bool, metric: Any
) -> None:
    items, queries = drawn(seed, 300, 24), drawn(seed + 1, 5, 24)
    index = TwoStageIndex.from_embeddings(items, bits, "float16" if half else "float32", metric, scales=scales)
    if metric == "cosine":
        items, queries = (torch.nn.functional.normalize(t, dim=1) for t in (items, queries))
    products = queries @ (items.half().float() if half else items).T
    exclude = None
    if leave_out:
        hidden = torch.rand(products.shape, generator=torch.Generator().manual_seed(seed)) < 0.9
        exclude = [row.nonzero()[:, 0] for row in hidden]
        products = products.masked_fill(hidden, -torch.inf)
    scores, ids = index.search(queries, k, exclude, shortlist="bound")
    expected = products.topk(k)
    torch.testing.assert_close(scores, expected.values, rtol=1e-4, atol=1e-5)
    found = products.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    torch.testing.assert_close(found, expected.values, rtol=1e-4, atol=1e-5)


def test_the_bound_with_one_bit_queries() -> None:
    items, queries = drawn(0, 200, 16), drawn(1, 5, 16)
    index = TwoStageIndex.from_embeddings(items, 1, query_bits=1)
    found = index.search(queries, 5, shortlist="bound")[1]
    assert torch.equal(found, (queries @ items.T).topk(5).indices)


@pytest.mark.parametrize("rows", ["float32", "float16", "int8"])
def test_calibration_gives_the_recall_asked_for(rows: Any) -> None:
    items = drawn(0, 5000, 32)
    index = TwoStageIndex.from_embeddings(items, 1, rows)
    held_out, asked = drawn(1, 60, 32), drawn(2, 60, 32)
    lengths = [index.calibrate(held_out, 20, recall) for recall in (0.5, 0.9, 0.99, 1.0)]
    assert lengths == sorted(lengths)
    assert 20 <= lengths[0] < lengths[-1] <= 5000

    def recall(queries: torch.Tensor) -> float:
        expected = (queries @ items.T).topk(20).indices
        found = index.search(queries, 20)[1]
        return float((found[:, :, None] == expected[:, None, :]).any(2).float().mean())

    best = {"float32": 1.0, "float16": 0.99, "int8": 0.97}[rows]
    assert recall(held_out) >= best
    index.calibrate(held_out, 20, 0.95)
    assert 0.95 * best - 0.03 <= recall(asked) < 1


def test_calibration_is_the_shortest_list() -> None:
    items, queries = drawn(0, 400, 16), drawn(1, 10, 16)
    index = TwoStageIndex.from_embeddings(items, 1)
    length = index.calibrate(queries, 10, 1.0)
    expected = (queries @ items.T).topk(10).indices.sort().values
    assert torch.equal(index.search(queries, 10)[1].sort().values, expected)
    assert not torch.equal(index.search(queries, 10, shortlist=length - 1)[1].sort().values, expected)


def test_small_corpora_and_empty_batches() -> None:
    index = TwoStageIndex.from_embeddings(drawn(0, 3, 8), 1)
    scores, ids = index.search(drawn(1, 2, 8), 5, shortlist=10)
    assert ids[:, 3:].tolist() == [[-1, -1]] * 2
    assert sorted(ids[0, :3].tolist()) == [0, 1, 2]
    assert bool((scores[:, 3:] == -torch.inf).all())
    assert index.search(torch.empty(0, 8), 5, shortlist="bound")[1].shape == (0, 5)
    everything = [torch.arange(3)] * 2
    assert bool((index.search(drawn(1, 2, 8), 2, everything, shortlist="bound")[1] == -1).all())
    empty = TwoStageIndex.from_embeddings(torch.empty(0, 8), 1)
    assert bool((empty.search(drawn(1, 2, 8), 2, shortlist=5)[1] == -1).all())
    assert bool((empty.search(drawn(1, 2, 8), 2, shortlist="bound")[1] == -1).all())


@pytest.mark.parametrize("shortlist", [10, "bound"])
def test_nothing_is_no_number_of_items(shortlist: Any) -> None:
    index = TwoStageIndex.from_embeddings(torch.randn(50, 8), 4)
    for k in (0, -1):
        with pytest.raises(InputError, match="k must be at least 1"):
            index.search(torch.randn(2, 8), k, shortlist=shortlist)


def test_bad_calls() -> None:
    items = drawn(0, 30, 8)
    index = TwoStageIndex.from_embeddings(items, 1, "int8")
    with pytest.raises(InputError, match="no shortlist"):
        index.search(items[:1], 3)
    with pytest.raises(InputError, match="exact scores"):
        index.search(items[:1], 3, shortlist="bound")
    with pytest.raises(InputError, match="has no 3 items"):
        index.search(items[:1], 3, shortlist=2)
    with pytest.raises(InputError, match="calibration needs"):
        index.calibrate(items[:0], 3)
    with pytest.raises(InputError, match="float16"):
        TwoStageIndex.from_embeddings(items * 1e6, 1, "float16")
    with pytest.raises(InputError, match="two stages"):
        TwoStageIndex.from_embeddings(items, 1, "hamming")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        index.search(torch.full((1, 8), torch.nan), 3, shortlist=5)
