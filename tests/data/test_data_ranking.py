"""Recall@k and NDCG@k against a brute-force ranking and scikit-learn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recfx.data import Interactions, evaluate_embeddings, evaluate_ranking, load_interactions
from recfx.data._top import chunk_width, top_columns
from recfx.errors import DataError


def brute_force(scores: Tensor, train: list[set[int]], test: list[set[int]], k: int) -> tuple[float, float]:
    recalls, ndcgs = [], []
    for user, held_out in enumerate(test):
        if not held_out:
            continue
        items = [i for i in range(scores.shape[1]) if i not in train[user]]
        ranked = sorted(items, key=lambda i: (-float(scores[user, i]), i))[:k]
        hits = [i in held_out for i in ranked]
        gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(held_out))))
        recalls.append(sum(hits) / len(held_out))
        ndcgs.append(gain / ideal)
    return sum(recalls) / len(recalls), sum(ndcgs) / len(ndcgs)


def pairs_of(rows: list[set[int]]) -> tuple[Tensor, Tensor]:
    pairs = torch.tensor([(u, i) for u, row in enumerate(rows) for i in sorted(row)], dtype=torch.int64)
    return pairs.reshape(-1, 2)[:, 0], pairs.reshape(-1, 2)[:, 1]


def interactions(train: list[set[int]], test: list[set[int]], items: int) -> Interactions:
    return Interactions.from_pairs(pairs_of(train), pairs_of(test), len(train), items)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, list[set[int]], list[set[int]]]:
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    row = st.sets(st.integers(0, items - 1))
    train = draw(st.lists(row, min_size=users, max_size=users))
    # Held-out items may also be training items: those are masked and count as missed.
    test = draw(st.lists(row, min_size=users, max_size=users).filter(any))
    levels = draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return torch.randint(levels, (users, items), generator=generator).float(), train, test


@given(cases(), st.integers(1, 15), st.integers(1, 15), st.integers(1, 4))
def test_metrics_are_their_definitions(
    case: tuple[Tensor, list[set[int]], list[set[int]]], first: int, second: int, block: int
) -> None:
    scores, train, test = case
    report = evaluate_ranking(
        lambda users: scores[users], interactions(train, test, scores.shape[1]), (first, second), block=block
    )
    for k in (first, second):
        recall, ndcg = brute_force(scores, train, test, k)
        assert report.recall[k] == pytest.approx(recall, abs=1e-9)
        assert report.ndcg[k] == pytest.approx(ndcg, abs=1e-9)
    assert report.users == sum(map(bool, test))
    assert report.skipped == len(test) - report.users


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_ndcg_is_scikit_learns_where_no_item_is_masked(seed: int, k: int) -> None:
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(8, 20, generator=generator)
    relevant = torch.rand(8, 20, generator=generator) < 0.3
    relevant[:, 0] = True
    test = [set(row.nonzero().flatten().tolist()) for row in relevant]
    report = evaluate_ranking(lambda users: scores[users], interactions([set()] * 8, test, 20), [k])
    assert report.ndcg[k] == pytest.approx(ndcg_score(relevant.numpy(), scores.numpy(), k=k), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8])
def test_any_real_dtype(dtype: torch.dtype) -> None:
    scores = torch.tensor([[3, 2, 1, 0]]).to(dtype)
    report = evaluate_ranking(lambda users: scores[users], interactions([{0}], [{1, 3}], 4), [1, 2])
    assert report.recall == {1: 0.5, 2: 0.5}
    assert scores.tolist() == [[3, 2, 1, 0]]  # the caller's scores are not masked


def test_infinite_scores_rank_last_but_are_no_mask() -> None:
    scores = torch.tensor([[-torch.inf, -torch.inf, 0.0]])
    report = evaluate_ranking(lambda users: scores[users], interactions([{2}], [{0}], 3), [3])
    assert report.recall[3] == 1.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 12), st.sampled_from([1, 8, 16, 64]), st.booleans())
def test_top_columns_are_a_stable_sort(seed: int, rows: int, chunks: int, width: int, tied: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, chunks * width, generator=generator)
    if tied:
        scores = scores.round()
    for depth in {1, min(5, chunks * width), chunks * width}:
        want = scores.sort(dim=1, descending=True, stable=True).indices[:, :depth]
        assert torch.equal(top_columns(scores, depth, width), want)


@given(st.integers(0, 2**32 - 1), st.integers(300, 700), st.booleans())
def test_wide_rankings_are_their_definition(seed: int, items: int, masked: bool) -> None:
    assert chunk_width(items, 4) > 1
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(3, 5, generator=generator)
    vectors = torch.randn(items, 5, generator=generator)
    share = 0.999 if masked else 0.1  # of the items: if nearly all of them are masked, padding is among the top items
    train = [set((torch.rand(items, generator=generator) < share).nonzero().flatten().tolist()) for _ in range(3)]
    test = [{0, *(torch.rand(items, generator=generator) < 0.2).nonzero().flatten().tolist()} for _ in range(3)]
    data = interactions(train, test, items)
    report = evaluate_embeddings(users, vectors, data, [1, 3], block=2)
    assert report == evaluate_ranking(lambda some: users[some] @ vectors.T, data, [1, 3])
    for k in (1, 3):
        recall, ndcg = brute_force(users @ vectors.T, train, test, k)
        assert report.recall[k] == pytest.approx(recall, abs=1e-9)
        assert report.ndcg[k] == pytest.approx(ndcg, abs=1e-9)


def test_embeddings_that_do_not_fit_are_refused() -> None:
    data = interactions([{0}, set()], [{1}, {2}], 3)
    users, items = torch.ones(2, 4), torch.ones(3, 4)
    assert evaluate_embeddings(users.double(), items.double(), data).users == 2
    for wrong in ((users[:1], items), (users, items[:2]), (users, items[:, :3]), (users.double(), items)):
        with pytest.raises(DataError, match="expected float embeddings"):
            evaluate_embeddings(*wrong, data)
    with pytest.raises(DataError, match="user 1 hold NaN"):
        evaluate_embeddings(users * torch.tensor([[1], [torch.nan]]), items, data)
    with pytest.raises(DataError, match="block"):
        evaluate_embeddings(users, items, data, block=0)


def test_bad_input() -> None:
    data = interactions([{0}, set()], [{1}, {2}], 3)
    with pytest.raises(DataError, match=r"expected scores \[2, 3\], got \[2, 4\]"):
        evaluate_ranking(lambda users: torch.zeros(2, 4), data)
    nan = torch.zeros(2, 3)
    nan[1, 2] = torch.nan
    with pytest.raises(DataError, match="user 1 hold NaN"):
        evaluate_ranking(lambda users: nan, data)
    for ks in ([], [0], [5, -1]):
        with pytest.raises(DataError, match="cut-offs"):
            evaluate_ranking(lambda users: torch.zeros(2, 3), data, ks)
    with pytest.raises(DataError, match="no user has a held-out item"):
        evaluate_ranking(lambda users: torch.zeros(2, 3), interactions([{0}], [set()], 3))


def test_popularity_on_real_data(data_dir: Path) -> None:
    data = load_interactions(data_dir)
    popularity = torch.bincount(data.train_indices, minlength=data.n_items).float()
    # Ties in popularity are common, so this also shows that sorting tied rows is fast enough.
    users = 2000
    few = Interactions(
        data.train_indptr[: users + 1],
        data.train_indices[: data.train_indptr[users]],
        data.test_indptr[: users + 1],
        data.test_indices[: data.test_indptr[users]],
        users,
        data.n_items,
    )
    report = evaluate_ranking(lambda some: popularity.expand(len(some), -1), few)
    assert 0.01 < report.recall[20] < report.recall[50] < 0.2
