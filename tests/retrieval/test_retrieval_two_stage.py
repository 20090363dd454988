"""Two stages against exact search: the guarantees of the shortlist, its calibration and the bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import rounded

from recfx.errors import InputError
from recfx.retrieval import TwoStageIndex, bound

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
    with pytest.raises(InputError, match="at least k = 3"):
        index.search(items[:1], 3, shortlist=2)
    with pytest.raises(InputError, match="calibration needs"):
        index.calibrate(items[:0], 3)
    with pytest.raises(InputError, match="float16"):
        TwoStageIndex.from_embeddings(items * 1e6, 1, "float16")
    with pytest.raises(InputError, match="two stages"):
        TwoStageIndex.from_embeddings(items, 1, "hamming")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        index.search(torch.full((1, 8), torch.nan), 3, shortlist=5)


def slack_of(index: TwoStageIndex, asked: torch.Tensor) -> torch.Tensor:
    return bound.slack(index.first, index._stages.reach, asked)


def lengths_of(index: TwoStageIndex, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the lengths of the first stage's lists from now on."""
    lengths: list[int] = []
    for name in ("_find", "_list"):
        plain = getattr(index.first, name)

        def watched(queries: torch.Tensor, k: int, *more: Any, plain: Any = plain) -> Any:
            lengths.append(k)
            return plain(queries, k, *more)

        monkeypatch.setattr(index.first, name, watched)
    return lengths


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_the_bound_stops_at_the_first_list_where_items_lie_far_apart(
    metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits distinguish these items, so that the bound needs no second list."""
    items = torch.nn.functional.one_hot(torch.arange(64) % 16, 16) * torch.linspace(1, 9, 64)[:, None]
    index = TwoStageIndex.from_embeddings(items, 8, metric=metric)
    lengths = lengths_of(index, monkeypatch)
    asked = torch.nn.functional.one_hot(torch.arange(3), 16).float()
    index.search(asked, 2, shortlist="bound")
    assert lengths == [8]


def test_the_bound_asks_for_four_times_as_many_until_it_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    items = torch.ones(300, 8)  # equal items, which nothing distinguishes
    index = TwoStageIndex.from_embeddings(items, 1)
    lengths = lengths_of(index, monkeypatch)
    assert index.search(torch.ones(2, 8), 3, shortlist="bound")[1].tolist() == [[0, 1, 2]] * 2
    assert lengths == [12, 48, 192, 300]
    lengths.clear()
    index.search(torch.ones(2, 8), 3, shortlist=700)
    index.search(torch.ones(2, 8), 3, shortlist=3)
    assert lengths == [300, 3]


def test_calibration_asks_for_four_times_as_many_until_they_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    items, held_out = drawn(0, 300, 8), drawn(1, 20, 8)
    index = TwoStageIndex.from_embeddings(items, 1)
    lengths = lengths_of(index, monkeypatch)
    chosen = index.calibrate(held_out, 3, 1.0)
    tried = [12, 48, 192, 300]
    assert lengths == [length for place, length in enumerate(tried) if place == 0 or chosen > tried[place - 1]]
    assert index.shortlist == chosen
    lengths.clear()
    index.search(held_out, 3)
    assert lengths == [chosen]


@pytest.mark.parametrize("deleted", [0, 298])
def test_calibration_of_small_corpora_and_exclusions(deleted: int) -> None:
    items, held_out = drawn(0, 300, 8), drawn(1, 4, 8)
    index = TwoStageIndex.from_embeddings(items[: 300 - deleted], 1)
    assert index.calibrate(held_out, 5, 1.0) >= 5
    assert index.search(held_out, 5)[1].shape == (4, 5)
    everything = [torch.arange(300 - deleted)] * 4
    assert index.calibrate(held_out, 5, 1.0, everything) == 5
    hidden = [torch.arange(0, 300 - deleted, 2)] * 4
    length = index.calibrate(held_out, 5, 1.0, hidden)
    expected = (held_out @ items[: 300 - deleted].T)[:, 1::2].topk(min(5, (300 - deleted) // 2)).indices * 2 + 1
    found = index.search(held_out, 5, hidden, shortlist=length)[1]
    assert torch.equal(found[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("recall", [0.0, -0.5, 1.0001, 2.0])
def test_a_recall_is_above_0_and_at_most_1(recall: float) -> None:
    index = TwoStageIndex.from_embeddings(drawn(0, 30, 8), 1)
    with pytest.raises(InputError, match="calibration needs"):
        index.calibrate(drawn(1, 2, 8), 3, recall)
    with pytest.raises(InputError, match="calibration needs"):
        TwoStageIndex.from_embeddings(torch.empty(0, 8), 1).calibrate(drawn(1, 2, 8), 3)
    assert index.calibrate(drawn(1, 2, 8), 3, 1e-9) == 3


@pytest.mark.parametrize("shortlist", [2, 3.0, "all", "3"])
def test_lengths_of_lists_that_are_refused(shortlist: Any) -> None:
    index = TwoStageIndex.from_embeddings(drawn(0, 30, 8), 1)
    with pytest.raises(InputError, match=f"at least k = 3, or 'bound', not {shortlist!r}"):
        index.search(drawn(1, 2, 8), 3, shortlist=shortlist)
    assert index.search(drawn(1, 2, 8), 3, shortlist=3)[1].shape == (2, 3)


@pytest.mark.parametrize(("rescore", "size"), [("float32", 4 * 8), ("float16", 2 * 8), ("int8", 8 + 8)])
def test_bytes_are_those_of_both_stages(rescore: Any, size: int) -> None:
    index = TwoStageIndex.from_embeddings(drawn(0, 32, 8), 1, rescore)
    assert index.nbytes == index.first.nbytes + 32 * size
    assert len(index) == 32


@pytest.mark.parametrize("rescore", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_rows_are_the_index_s_own(rescore: Any, metric: Any) -> None:
    items, asked = drawn(0, 32, 8), drawn(1, 3, 8)
    index = TwoStageIndex.from_embeddings(items, 1, rescore, metric)
    assert (index.first.metric, index.first.query_bits) == (metric, 8)
    before = index.search(asked, 5, shortlist=32)
    unit = torch.nn.functional.normalize if metric == "cosine" else lambda rows, dim: rows
    tolerance = {"float32": 1e-5, "float16": 1e-3, "int8": 0.03}[rescore]
    expected = (unit(asked, dim=1) @ unit(items, dim=1).T).gather(1, before[1])
    torch.testing.assert_close(before[0], expected, rtol=tolerance, atol=tolerance)
    items.zero_()
    for one, other in zip(before, index.search(asked, 5, shortlist=32), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scales", ["table", "row", "symmetric", "dimension"])
def test_the_reach_is_measured_in_parts(scales: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items = drawn(0, 50, 8)
    index = TwoStageIndex.from_embeddings(items, 2, scales=scales)
    stands_for = index.first.decode()
    expected = ((items - stands_for).norm(dim=1).max(), stands_for.norm(dim=1).max())
    for block in (1 << 22, 8 * 7, 3):
        monkeypatch.setattr(bound, "_BLOCK_VALUES", block)
        torch.testing.assert_close(
            torch.tensor(bound.reach(index.first, torch.arange(len(items)), items)), torch.tensor(expected)
        )


@pytest.mark.parametrize(
    ("bits", "scales", "query_bits"), [(1, "row", 1), (1, "row", 8), (4, "symmetric", 8), (8, "table", 8)]
)
def test_the_slack_is_that_of_the_bound(bits: int, scales: Any, query_bits: int) -> None:
    """||q|| r + ||q - q'|| x, plus a margin for roundings."""
    items, asked = drawn(0, 50, 8), drawn(1, 6, 8)
    index = TwoStageIndex.from_embeddings(items, bits, scales=scales, query_bits=query_bits)
    stands_for = index.first.decode()
    away, longest = (items - stands_for).norm(dim=1).max(), stands_for.norm(dim=1).max()
    expected = asked.norm(dim=1) * away + (asked - rounded(asked, query_bits)).norm(dim=1) * longest
    torch.testing.assert_close(slack_of(index, asked), expected, rtol=1e-3, atol=2e-5)


def test_the_slack_of_grids_per_dimension() -> None:
    """The query times the steps is rounded, and codes are at most 2^bits - 1."""
    items, asked = drawn(0, 50, 8), drawn(1, 6, 8)
    index = TwoStageIndex.from_embeddings(items, 4, scales="dimension")
    away = (items - index.first.decode()).norm(dim=1).max()
    scaled = asked * index.first._store.grid.step
    lost = (scaled - rounded(scaled, 8)).norm(dim=1) * 15 * 8**0.5
    torch.testing.assert_close(slack_of(index, asked), asked.norm(dim=1) * away + lost, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "hamming"}, "by 'hamming' with rows of 'float32'"),
        ({"rescore": "float64"}, "by 'ip' with rows of 'float64'"),
        ({"scales": "column"}, "scales per 'column'"),
        ({"query_bits": 4}, "queries of 4 bits"),
    ],
)
def test_options_that_two_stages_do_not_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwoStageIndex.from_embeddings(drawn(0, 30, 8), 1, **options)
