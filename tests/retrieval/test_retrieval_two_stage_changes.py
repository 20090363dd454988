"""A two-stage index that changes and is saved, against one that is built anew from the same items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn
from safetensors.torch import load_file, save_file

from recfx.errors import ArtifactError, InputError
from recfx.formats.folders import seal
from recfx.retrieval import Index, TwoStageIndex

ROWS = pytest.mark.parametrize("rows", ["float32", "float16", "int8"])


def best(items: dict[int, torch.Tensor], asked: torch.Tensor, k: int) -> list[list[int]]:
    """The ids of the best items by exact products."""
    ids = torch.tensor(list(items))
    return ids[(asked @ torch.stack(list(items.values())).T).topk(k).indices].tolist()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    bits=st.sampled_from([1, 2, 4, 8]),
    scales=st.sampled_from([None, "table", "row", "symmetric", "dimension"]),
    metric=st.sampled_from(["ip", "cosine"]),
    steps=st.lists(st.sampled_from(["add", "update", "delete"]), max_size=6),
    own=st.booleans(),
)
def test_the_bound_stays_true_through_changes(
    seed: int, bits: int, scales: Any, metric: Any, steps: list[str], own: bool
) -> None:
    first, asked = drawn(seed, 30, 12), drawn(seed + 1, 3, 12)
    numbers = torch.arange(30) * 3 - 17 if own else torch.arange(30)
    index = TwoStageIndex.from_embeddings(first, bits, metric=metric, scales=scales, ids=numbers if own else None)
    held = dict(zip(numbers.tolist(), first, strict=True))
    for place, step in enumerate(steps):
        values = drawn(seed + 2 + place, 4, 12) * (place + 1)
        some = index.live_ids()[place :: max(1, len(index) // 4)][:4]
        if step == "add":
            names = torch.arange(4) + 1000 * (place + 1)
            got = index.add(values, ids=names) if own else index.add(values)
            held |= dict(zip(got.tolist(), values, strict=True))
        elif step == "update":
            index.update(some, values[: len(some)])
            held |= dict(zip(some.tolist(), values, strict=False))
        else:
            index.delete(some)
            held = {name: row for name, row in held.items() if name not in some.tolist()}
    if metric == "cosine":
        held = {name: torch.nn.functional.normalize(row, dim=0) for name, row in held.items()}
        asked = torch.nn.functional.normalize(asked, dim=1)
    assert len(index) == len(held)
    assert sorted(index.live_ids().tolist()) == sorted(held)
    assert index.search(asked, 5, shortlist="bound")[1].tolist() == best(held, asked, 5)
    index.calibrate(asked, 5, 1.0)
    assert index.search(asked, 5)[1].tolist() == best(held, asked, 5)


@ROWS
def test_added_rows_are_as_those_of_the_beginning(rows: Any) -> None:
    items, asked = drawn(0, 70, 12), drawn(1, 3, 12)
    whole = TwoStageIndex.from_embeddings(items, 8, rows, scales="row")
    grown = TwoStageIndex.from_embeddings(items[:10], 8, rows, scales="row")
    for start in range(10, 70, 7):
        grown.add(items[start : start + 7])
    assert grown.next_id == 70
    assert grown.nbytes == whole.nbytes
    for one, other in zip(grown.search(asked, 9, shortlist=70), whole.search(asked, 9, shortlist=70), strict=True):
        assert torch.equal(one, other)
    turned = items.flip(0)
    grown.update(torch.arange(70), turned)
    found = grown.search(asked, 9, shortlist=70)[1]
    assert torch.equal(69 - found, whole.search(asked, 9, shortlist=70)[1])


def test_what_cannot_be_added() -> None:
    index = TwoStageIndex.from_embeddings(drawn(0, 5, 8), 2, "float16")
    before = index.search(drawn(1, 2, 8), 5, shortlist=5)
    for call, message in (
        (lambda: index.add(drawn(1, 2, 9)), "8 columns"),
        (lambda: index.add(drawn(1, 2, 8) * 1e6), "float16"),
        (lambda: index.update(torch.tensor([0, 0]), drawn(1, 2, 8)), "each once"),
        (lambda: index.update(torch.tensor([7]), drawn(1, 1, 8)), "item 7 does not exist"),
        (lambda: index.update(torch.tensor([1]), drawn(1, 1, 8) * 1e6), "float16"),
        (lambda: index.delete(torch.tensor([9])), "item 9 does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    for one, other in zip(index.search(drawn(1, 2, 8), 5, shortlist=5), before, strict=True):
        assert torch.equal(one, other)  # a refused change leaves the index as it was


@ROWS
@pytest.mark.parametrize("own", [False, True])
def test_a_saved_index_answers_as_before(rows: Any, own: bool, tmp_path: Path) -> None:
    items, asked = drawn(0, 50, 12), drawn(1, 4, 12)
    index = TwoStageIndex.from_embeddings(items, 2, rows, "cosine", ids=torch.arange(50) * 5 if own else None)
    index.calibrate(asked, 3)
    index.delete(index.live_ids()[:3])
    index.add(drawn(2, 4, 12), ids=torch.arange(4) - 10 if own else None)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    again = TwoStageIndex.load(tmp_path / "index")
    assert repr(again) == repr(index)
    assert again.nbytes == index.nbytes
    for length in (None, 54, *(["bound"] if rows != "int8" else [])):
        for one, other in zip(
            again.search(asked, 3, shortlist=length), index.search(asked, 3, shortlist=length), strict=True
        ):
            assert torch.equal(one, other)
    again.add(drawn(3, 40, 12), ids=torch.arange(40) + 10_000 if own else None)
    again.update(again.live_ids()[:1], drawn(4, 1, 12))
    assert len(again) == len(index) + 40
    assert len(TwoStageIndex.load(tmp_path / "index", check=False)) == len(index)


def resealed(folder: Path, arrays: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
    manifest = {**json.loads((folder / "two-stage.json").read_text()), **changes}
    manifest.pop("files", None)
    if arrays is not None:
        save_file(arrays, folder / "arrays.safetensors")
    for name in ("two-stage.json", "two-stage.sha256"):
        (folder / name).unlink()
    seal(folder, "two-stage", manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"rescore": "int4"},
        {"rescore": "float16"},
        {"shortlist": 0},
        {"shortlist": "bound"},
        {"error": -1.0},
        {"error": "0"},
        {"longest": None},
        {"format": 9},
        {"surplus": 1},
        {"first": {}},
    ],
)
def test_damaged_options_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    TwoStageIndex.from_embeddings(drawn(0, 20, 8), 2).save(tmp_path / "index")
    resealed(tmp_path / "index", **change)
    with pytest.raises(ArtifactError):
        TwoStageIndex.load(tmp_path / "index")


@pytest.mark.parametrize("rows", ["float32", "int8"])
def test_damaged_arrays_are_refused(rows: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    TwoStageIndex.from_embeddings(drawn(0, 20, 8), 2, rows).save(folder)
    arrays = load_file(folder / "arrays.safetensors")
    for name, array in (
        ("rows", arrays["rows"][:19]),
        ("rows", arrays["rows"].double()),
        ("rows", arrays["rows"].reshape(-1)),
        ("row_step", torch.zeros(19)),
        ("row_lower", torch.zeros(20)),
        ("more", torch.zeros(1)),
        ("blocks", arrays["blocks"][:1]),
    ):
        if rows == "int8" and name == "row_lower":
            array = array.double()
        resealed(folder, {**arrays, name: array.contiguous()})
        with pytest.raises(ArtifactError):
            TwoStageIndex.load(folder)
    resealed(folder, {name: array for name, array in arrays.items() if name != "rows"})
    with pytest.raises(ArtifactError, match="rows"):
        TwoStageIndex.load(folder)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    index = TwoStageIndex.from_embeddings(drawn(0, 20, 8), 2)
    index.save(tmp_path / "two")
    index.first.save(tmp_path / "one")
    with pytest.raises(ArtifactError, match="no saved index of two stages"):
        TwoStageIndex.load(tmp_path / "one")
    with pytest.raises(ArtifactError, match="no saved index"):
        Index.load(tmp_path / "two")
    with pytest.raises(ArtifactError, match="not an index of two stages"):
        index.save(tmp_path / "one")
    held = bytearray((tmp_path / "two" / "arrays.safetensors").read_bytes())
    held[-1] ^= 1
    (tmp_path / "two" / "arrays.safetensors").write_bytes(held)
    with pytest.raises(ArtifactError, match="checksum"):
        TwoStageIndex.load(tmp_path / "two")
