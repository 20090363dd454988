"""The caller's own ids of items, in both kinds of index, against searches by positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn

from recfx.errors import ArtifactError, InputError
from recfx.retrieval import Index, TwoStageIndex, item_ids
from recfx.retrieval.item_ids import ItemIds, tensor_of

relaxed = settings(deadline=None, max_examples=25)
own_ids = st.lists(st.integers(-(2**63), 2**63 - 1).filter(lambda i: i != -1), unique=True, min_size=2, max_size=40)


def made(kind: str, items: torch.Tensor, ids: Any) -> Any:
    if kind == "two stages":
        index = TwoStageIndex.from_embeddings(items, 2, ids=ids)
        index.shortlist = 40
        return index
    return Index.from_embeddings(items, 8, ids=ids)


KINDS = pytest.mark.parametrize("kind", ["one stage", "two stages"])


@KINDS
@relaxed
@given(ids=own_ids, data=st.data())
def test_a_search_gives_the_ids_of_the_same_items(kind: str, ids: list[int], data: st.DataObject) -> None:
    items, asked = drawn(0, len(ids), 8), drawn(1, 3, 8)
    plain, own = made(kind, items, None), made(kind, items, torch.tensor(ids))
    hidden = [
        torch.tensor(data.draw(st.lists(st.sampled_from(range(len(ids))), max_size=9)), dtype=torch.int64)
        for _ in asked
    ]
    shared = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(ids))), max_size=9)), dtype=torch.int64)
    names = torch.tensor(ids)
    for exclude, allow in ((None, None), (hidden, None), (None, shared), (hidden, shared)):
        found = plain.search(asked, 5, exclude, allow)
        wanted = torch.where(found[1] < 0, -1, names[found[1].clamp(min=0)])
        left_out = None if exclude is None else [names[part] for part in exclude]
        scores, got = own.search(asked, 5, left_out, None if allow is None else names[allow])
        assert torch.equal(got, wanted)
        assert torch.equal(scores, found[0])


@KINDS
def test_items_are_added_replaced_and_deleted_by_their_ids(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_ids, "_MOST_RECENT", 3)
    items = torch.eye(8) * 3
    index = made(kind, items[:4], torch.tensor([40, 10, 20, 30]))
    assert index.add(items[4:5], ids=torch.tensor([7])).tolist() == [7]
    assert index.add(items[5:], ids=np.array([5, -6, 2**40], np.int64)).tolist() == [5, -6, 2**40]
    assert index.live_ids().tolist() == [40, 10, 20, 30, 7, 5, -6, 2**40]
    assert index.search(items, 1)[1][:, 0].tolist() == [40, 10, 20, 30, 7, 5, -6, 2**40]
    index.delete(torch.tensor([20, 5]))
    assert len(index) == 6
    assert index.search(items[2], 1)[1].tolist() != [20]
    index.update(torch.tensor([10]), items[2:3])
    assert index.search(items[2], 1)[1].tolist() == [10]
    assert index.add(items[[2, 5]] * 2, ids=torch.tensor([20, 99])).tolist() == [20, 99]  # 20 comes back, 99 is new
    assert index.search(items[[2, 5]], 1)[1][:, 0].tolist() == [20, 99]
    for ids, message in (
        (torch.tensor([20]), "exists already"),
        (torch.tensor([1, 1]), "each once"),
        (torch.tensor([1, 3]), "as many ids"),
        (torch.tensor([-1]), "no item"),
        (None, "ids of your own"),
    ):
        with pytest.raises(InputError, match=message):
            index.add(items[:2] if message == "each once" else items[:1], ids=ids)
    for call in (
        lambda: index.delete(torch.tensor([12345])),
        lambda: index.update(torch.tensor([12345]), items[:1]),
        lambda: index.search(items, 1, [torch.tensor([12345])] * 8),
        lambda: index.search(items, 1, None, torch.tensor([12345])),
    ):
        with pytest.raises(InputError, match="the item 12345 does not exist"):
            call()


@KINDS
def test_ids_are_for_new_indices_alone(kind: str) -> None:
    index = made(kind, drawn(0, 4, 8), None)
    with pytest.raises(InputError, match="numbers its items itself"):
        index.add(drawn(1, 1, 8), ids=torch.tensor([7]))
    empty = made(kind, torch.empty(0, 8), None)
    assert empty.add(drawn(1, 2, 8), ids=torch.tensor([70, 80])).tolist() == [70, 80]
    assert empty.search(drawn(1, 2, 8), 3)[1].sort(1).values.tolist() == [[-1, 70, 80]] * 2


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([1, 2]), "3 items need as many ids"),
        (torch.tensor([1, 2, 2]), "each once"),
        (torch.tensor([1, -1, 2]), "-1 cannot be the id"),
        (torch.tensor([1.0, 2.0, 3.0]), "must be a tensor of integers"),
        (torch.tensor([[1, 2, 3]]), r"got torch.int64 \[1, 3\]"),
        ([1, 2, 3], "got list"),
        (np.array(["a", "b", "c"]), "got ndarray"),
    ],
)
def test_ids_that_are_refused(ids: Any, message: str) -> None:
    for build in (Index.from_embeddings, TwoStageIndex.from_embeddings):
        with pytest.raises(InputError, match=message):
            build(drawn(0, 3, 8), ids=ids)


def test_ids_go_with_codes() -> None:
    codes = torch.tensor([[0, 1, 1], [1, 1, 0]], dtype=torch.uint8)
    for index in (
        Index.from_codes(codes.numpy(), 1, ids=np.array([5, 9])),
        Index.from_packed(np.array([[6], [3]], np.uint8), 3, 1, ids=np.array([5, 9])),
    ):
        assert index.search(torch.tensor([1.0, 1.0, -1.0]), 2)[1].tolist() == [9, 5]
        assert torch.equal(index.codes(np.array([9])), codes[1:])


def test_ids_of_a_saved_index(tmp_path: Path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    from recfx.formats.folders import seal

    index = Index.from_embeddings(drawn(0, 20, 8), 4, ids=torch.arange(20) * 7 - 52)
    index.delete(torch.tensor([-52]))
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert torch.equal(again.live_ids(), index.live_ids())
    for one, other in zip(again.search(drawn(1, 2, 8), 4), index.search(drawn(1, 2, 8), 4), strict=True):
        assert torch.equal(one, other)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    del manifest["files"]
    arrays = load_file(tmp_path / "index" / "arrays.safetensors")
    for ids in (torch.arange(19), torch.arange(20).float(), torch.zeros(20, dtype=torch.int64), torch.arange(-1, 19)):
        save_file({**arrays, "ids": ids}, tmp_path / "index" / "arrays.safetensors")
        for name in ("manifest.json", "manifest.sha256"):
            (tmp_path / "index" / name).unlink()
        seal(tmp_path / "index", "manifest", manifest)
        with pytest.raises(ArtifactError, match="ids"):
            Index.load(tmp_path / "index")


def test_faiss_gets_the_ids() -> None:
    pytest.importorskip("faiss", reason="pip install faiss-cpu")
    items = drawn(0, 60, 16)
    index = Index.from_embeddings(items, 1, "hamming", ids=torch.arange(60) + 1000)
    index.delete(torch.tensor([1003]))
    built: Any = index.to_faiss("binary")
    asked = np.packbits((items[:4] > 0).numpy(), axis=1, bitorder="little")
    found = built.search(asked, 1)[1][:, 0]
    assert found[:3].tolist() == [1000, 1001, 1002]
    assert found[3] != 1003


@relaxed
@given(ids=own_ids, more=own_ids)
def test_positions_after_appends(ids: list[int], more: list[int]) -> None:
    held = ItemIds.of(torch.tensor(ids), len(ids))
    assert held.positions(torch.tensor(ids)).tolist() == list(range(len(ids)))
    new = [i for i in more if i not in ids]
    for one in new:
        held.extend(torch.tensor([one]))
    assert held.positions(torch.tensor([*new, *ids])).tolist() == [
        *range(len(ids), len(ids) + len(new)),
        *range(len(ids)),
    ]


def test_arrays_that_torch_cannot_read_stay_arrays() -> None:
    for array in (np.array(["a"]), np.array([None])):
        assert tensor_of(array) is array
    swapped = np.arange(3, dtype=">i4")
    assert tensor_of(swapped).tolist() == [0, 1, 2]
    held = np.arange(4.0)
    held.flags.writeable = False
    assert tensor_of(held).tolist() == [0, 1, 2, 3]


@KINDS
def test_positions_of_items_and_of_others(kind: str) -> None:
    items = drawn(0, 6, 8)
    numbered, named = made(kind, items, None), made(kind, items, torch.tensor([40, 10, 20, 30, 7, 5]))
    assert (numbered.own_ids, named.own_ids) == (False, True)
    named.delete(torch.tensor([10]))
    numbered.delete(torch.tensor([1]))
    assert named.positions(torch.tensor([5, 10, 40, 99, -1])).tolist() == [5, -1, 0, -1, -1]
    assert numbered.positions(np.array([5, 1, 0, 6, -1])).tolist() == [5, -1, 0, -1, -1]
    with pytest.raises(InputError, match="must be a tensor of integers"):
        named.positions(torch.tensor([1.0]))


@KINDS
def test_changes_of_a_copy_leave_the_index(kind: str) -> None:
    items, queries = drawn(0, 40, 8), drawn(1, 3, 8)
    index = made(kind, items, torch.arange(40) + 100)
    index.delete(torch.tensor([105]))
    before = index.search(queries, 7)
    copied = index.copy()
    for a, b in zip(copied.search(queries, 7), before, strict=True):
        assert torch.equal(a, b)
    copied.add(drawn(2, 30, 8), ids=torch.arange(30) + 500)
    copied.update(torch.arange(20) + 110, drawn(3, 20, 8))
    copied.add(drawn(4, 1, 8), ids=torch.tensor([105]))
    copied.delete(torch.tensor([100, 101, 102]))
    changed = copied.search(queries, 7)
    assert (len(index), len(copied)) == (39, 67)
    for a, b in zip(index.search(queries, 7), before, strict=True):
        assert torch.equal(a, b)
    index.add(drawn(5, 3, 8), ids=torch.tensor([1, 2, 3]))
    index.update(torch.tensor([110]), drawn(6, 1, 8))
    for a, b in zip(copied.search(queries, 7), changed, strict=True):
        assert torch.equal(a, b)
