"""Calls as users make them: NumPy arrays, one query, allowed items, and what `k` may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn

from recfx.errors import InputError
from recfx.retrieval import Index, TwoStageIndex
from recfx.retrieval.calls import checked_k

ITEMS, ASKED = drawn(0, 50, 16), drawn(1, 4, 16)
INDICES: dict[str, Any] = {
    "one stage": Index.from_embeddings(ITEMS, 4),
    "two stages": TwoStageIndex.from_embeddings(ITEMS, 2),
    "8-bit rows": TwoStageIndex.from_embeddings(ITEMS, 2, "int8"),
}
for made in ("two stages", "8-bit rows"):
    INDICES[made].shortlist = 50
EVERY = pytest.mark.parametrize("name", INDICES)


@EVERY
def test_numpy_in_numpy_out(name: str) -> None:
    index = INDICES[name]
    scores, ids = index.search(ASKED, 3)
    for queries in (ASKED.numpy(), ASKED.double().numpy(), np.asfortranarray(ASKED.numpy())):
        found = index.search(queries, np.int64(3), [np.array([], np.int64)] * 4)
        assert all(isinstance(part, np.ndarray) for part in found)
        assert np.array_equal(found[0], scores.numpy())
        assert np.array_equal(found[1], ids.numpy())
    again = type(index).from_embeddings(ITEMS.numpy(), index.first.bits if name != "one stage" else 4)
    again.shortlist = 50
    if name != "8-bit rows":
        assert torch.equal(again.search(ASKED, 3)[1], ids)


@EVERY
def test_one_query(name: str) -> None:
    index = INDICES[name]
    scores, ids = index.search(ASKED, 3)
    for row, query in enumerate(ASKED):
        one = index.search(query, 3)
        assert torch.equal(one[0], scores[row])
        assert torch.equal(one[1], ids[row])
    left_out = ids[0, :1]
    assert int(index.search(ASKED[0], 1, left_out)[1]) == int(ids[0, 1])
    assert index.search(ASKED[0].numpy(), 1, left_out.numpy())[1].item() == int(ids[0, 1])
    assert int(index.search(ASKED[0], 1, [left_out])[1]) == int(ids[0, 1])


@EVERY
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_allowed_items_are_the_only_ones(name: str, data: st.DataObject) -> None:
    index = INDICES[name]
    sets = st.lists(st.integers(0, 49), max_size=60)
    shared = data.draw(sets)
    apart = [torch.tensor(data.draw(sets), dtype=torch.int64) for _ in ASKED]
    hidden = [torch.tensor(data.draw(sets), dtype=torch.int64) for _ in ASKED]
    starts = torch.tensor([0, *map(len, apart)]).cumsum(0)
    for allow, allowed in (
        (torch.tensor(shared, dtype=torch.int64), [shared] * 4),
        (np.array(shared, np.int32), [shared] * 4),
        (apart, [part.tolist() for part in apart]),
        ((starts, torch.cat(apart)), [part.tolist() for part in apart]),
    ):
        scores, ids = index.search(ASKED, 7, hidden, allow)
        by_exclusion = [
            torch.tensor(sorted((set(range(50)) - set(a)) | set(h.tolist())), dtype=torch.int64)
            for a, h in zip(allowed, hidden, strict=True)
        ]
        wanted = index.search(ASKED, 7, by_exclusion)
        assert torch.equal(ids, wanted[1])
        assert torch.equal(scores, wanted[0])


def test_allowed_items_with_the_bound_and_deleted_items() -> None:
    index = TwoStageIndex.from_embeddings(ITEMS, 2)
    index.delete(torch.arange(0, 50, 5))
    allowed = torch.arange(0, 50, 2)
    wanted = torch.full((4, 50), -torch.inf)
    kept = [i for i in range(0, 50, 2) if i % 5]
    wanted[:, kept] = ASKED @ ITEMS[kept].T
    for shortlist in ("bound", 50):
        found = index.search(ASKED, 4, None, allowed, shortlist=shortlist)[1]
        assert torch.equal(found, wanted.topk(4).indices)
    assert index.search(ASKED, 60, None, allowed, shortlist=60)[1].ge(0).sum(1).tolist() == [len(kept)] * 4
    assert index.search(ASKED[:0], 4, None, [], shortlist=50)[1].shape == (0, 4)


@pytest.mark.parametrize("k", [0, -3, 1.5, 3.0, "3", None, True, 1 << 40, torch.tensor([1, 2])])
def test_k_that_is_refused(k: Any) -> None:
    for index in INDICES.values():
        with pytest.raises(InputError, match="k must be") as caught:
            index.search(ASKED, k)
        assert caught.value.hint
    with pytest.raises(InputError, match="k must be"):
        TwoStageIndex.from_embeddings(ITEMS).calibrate(ASKED, k)


def test_k_that_is_taken() -> None:
    for k in (2, np.int32(2), torch.tensor(2)):
        assert checked_k(k, "here") == 2
    assert INDICES["one stage"].search(ASKED, 70)[1].ge(0).sum(1).tolist() == [50] * 4


@EVERY
def test_the_text_of_an_index_says_what_it_is(name: str) -> None:
    text = repr(INDICES[name])
    assert "50 items of 16 dimensions" in text
    assert "metric='ip'" in text
    assert {"one stage": "4 bits", "two stages": "2 bits, then float32", "8-bit rows": "then int8"}[name] in text


def test_no_query_with_allowed_items_of_each() -> None:
    index = Index.from_embeddings(drawn(0, 6, 8), 4)
    scores, ids = index.search(torch.empty(0, 8), 3, None, [])
    assert (scores.shape, ids.shape, ids.dtype) == ((0, 3), (0, 3), torch.int64)
