"""The content of a growing and shrinking index: its room, the bits of deleted items, and accepted ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from retrieval_kit import drawn

from recfx.errors import InputError
from recfx.kernels import huge_pages
from recfx.retrieval import Index, options


@pytest.mark.parametrize("scales", ["table", "row", "symmetric", "dimension"])
def test_room_doubles_when_it_is_short_and_only_then(scales: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.Tensor] = []
    index = Index.from_embeddings(drawn(0, 16, 8), 4, scales=scales)
    index.delete(torch.tensor([3]))
    monkeypatch.setattr(huge_pages, "move_tables", moved.extend)
    store, rooms = index._store, []
    for number in range(80):
        index.add(drawn(number, 1, 8))
        rooms.append(len(store.blocks))
        assert store.dead is not None
        assert len(store.dead) == -(-16 * rooms[-1] // 64)
        if store._constants.by_row:
            assert len(store._constants.step) == 16 * rooms[-1]
    # 16 items fill a block: the 17th, the 33rd and the 65th item exceed the room.
    assert rooms == [2] * 16 + [4] * 32 + [8] * 32
    assert [len(blocks) for blocks in moved] == [2, 4, 8]
    index.add(drawn(99, 200, 8))
    assert len(store.blocks) == 19  # more than twice as many: no further room
    index.delete(torch.tensor([295]))
    assert len(index) == 294


def test_blocks_stay_where_they_are_while_items_fit() -> None:
    index = Index.from_embeddings(drawn(0, 30, 8), 4)
    place = index._store.blocks.data_ptr()
    index.add(drawn(1, 2, 8))
    assert index._store.blocks.data_ptr() == place


@pytest.mark.parametrize(
    ("scales", "constants"), [("table", 2), ("row", 2 * 21), ("symmetric", 21 + 1), ("dimension", 2 * 40)]
)
def test_bytes_are_those_of_codes_and_constants(scales: Any, constants: int) -> None:
    # 40 codes of 2 bits take three words; 21 items fill two blocks of 16.
    assert Index.from_embeddings(drawn(0, 21, 40), 2, scales=scales).nbytes == 4 * (2 * 16 * 3 + constants)


def test_updates_count_the_deleted_items_that_come_back() -> None:
    index = Index.from_embeddings(drawn(0, 200, 8), 4)
    index.delete(torch.tensor([5, 70, 130]))
    index.update(torch.tensor([70, 6, 199]), drawn(1, 3, 8))
    assert len(index) == 198
    assert index.live_ids().tolist() == [i for i in range(200) if i not in (5, 130)]
    index.delete(torch.tensor([70, 64, 63]))
    assert len(index) == 195
    for gone in (5, 63, 64):
        with pytest.raises(InputError, match="an item is deleted twice"):
            index.delete(torch.tensor([1, gone]))
    assert len(index) == 195


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([1.0]),
        torch.tensor([True]),
        torch.tensor([[1]]),
        torch.tensor(1),
        torch.empty(0, 1, dtype=torch.int64),
        [1],
        (),
        None,
        3,
    ],
    ids=str,
)
def test_ids_are_integers_in_one_dimension(ids: Any) -> None:
    index = Index.from_embeddings(drawn(0, 4, 8), 4)
    for call in (index.delete, lambda given: index.update(given, drawn(0, 1, 8))):
        with pytest.raises(InputError, match=r"ids must be a tensor of integers \[n\]"):
            call(ids)
    assert len(index) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int32])
def test_no_ids_may_be_of_any_type(dtype: torch.dtype) -> None:
    index = Index.from_embeddings(drawn(0, 4, 8), 4)
    index.delete(torch.empty(0, dtype=dtype))
    assert index.codes(torch.empty(0, dtype=dtype)).shape == (0, 8)
    assert len(index) == 4


def test_ids_of_any_integer_type_and_of_no_item() -> None:
    index = Index.from_embeddings(drawn(0, 4, 8), 4)
    assert torch.equal(index.codes(torch.tensor([3, 0], dtype=torch.uint8)), index.codes()[[3, 0]])
    for ids, bad in (([0, -1], -1), ([3, 4, 9], 4), ([0, 7], 7)):
        with pytest.raises(InputError, match=f"the item {bad} does not exist; ids are 0 to 3"):
            index.decode(torch.tensor(ids))


def test_an_update_needs_one_id_for_each_item() -> None:
    index = Index.from_embeddings(drawn(0, 4, 8), 4)
    for ids, items in (([0, 1], 3), ([0, 1, 2], 2), ([1, 2, 1], 3)):
        with pytest.raises(InputError, match="each once"):
            index.update(torch.tensor(ids), drawn(0, items, 8))
    index.update(torch.tensor([2, 0, 1]), drawn(9, 3, 8))
    assert torch.equal(index.codes(torch.tensor([2, 0, 1])), Index.from_embeddings(drawn(9, 3, 8), 4).codes())


@pytest.mark.parametrize("items", [63, 64, 65, 128])
def test_deleted_items_are_kept_at_the_ends_of_words(items: int, tmp_path: Path) -> None:
    index = Index.from_embeddings(drawn(0, items, 8), 4)
    gone = torch.tensor([0, 61, items - 1])
    index.delete(gone)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert len(loaded) == items - 3
    assert torch.equal(loaded.live_ids(), index.live_ids())
    assert not torch.isin(gone, loaded.search(drawn(1, 2, 8), items)[1]).any()


def test_room_for_more_items_is_not_saved(tmp_path: Path) -> None:
    index = Index.from_embeddings(drawn(0, 64, 8), 4)
    index.delete(torch.tensor([3]))
    index.add(drawn(1, 1, 8))
    index.add(drawn(2, 70, 8))
    index.add(drawn(2, 30, 8))
    assert len(index._store.blocks) == 16
    index.save(tmp_path / "index")
    store = Index.load(tmp_path / "index")._store
    assert store.dead is not None
    assert (len(store.blocks), len(store.dead), store.items) == (11, 3, 165)


def test_an_index_of_one_dimension_is_kept(tmp_path: Path) -> None:
    index = Index.from_embeddings(drawn(0, 9, 1), 8)
    index.save(tmp_path / "index")
    assert torch.equal(Index.load(tmp_path / "index").decode(), index.decode())


def test_more_items_than_an_index_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    options.checked_size((1 << 31) - 1, 1 << 16)
    for rows, dim in ((1 << 31, 8), (1, (1 << 16) + 1)):
        with pytest.raises(InputError, match=f"not {rows:,} of {dim:,}"):
            options.checked_size(rows, dim)
    wide = torch.empty(0, 1 << 17, dtype=torch.uint8)
    for call in (
        lambda: Index.from_embeddings(wide.float()),
        lambda: Index.from_codes(wide, 1),
        lambda: Index.from_packed(wide, 1 << 20, 1),
    ):
        with pytest.raises(InputError, match="an index holds up to"):
            call()
    index = Index.from_embeddings(drawn(0, 4, 8), 4)
    monkeypatch.setattr(options, "_MOST_ITEMS", 7)
    index.add(drawn(1, 2, 8))
    with pytest.raises(InputError, match=r"up to 6 items of 65,536 dimensions, not 7 of 8"):
        index.add(drawn(1, 1, 8))
    assert len(index) == 6
