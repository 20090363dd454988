"""Saved indices: complete, mapped, and refused if damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from recfx.errors import ArtifactError
from recfx.formats.folders import seal
from recfx.kernels import huge_pages
from recfx.retrieval import Index

QUERIES = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))


def make(bits: int = 4, scales: Any = "row") -> Index:
    index = Index.from_embeddings(torch.randn(77, 20, generator=torch.Generator().manual_seed(0)), bits, scales=scales)
    index.delete(torch.tensor([3, 70]))
    return index


def rewrite(folder: Path, **change: Any) -> None:
    """Changes fields of a manifest and updates its checksum."""
    document = {**json.loads((folder / "manifest.json").read_text()), **change}
    for name in ("manifest.json", "manifest.sha256"):
        (folder / name).unlink()
    files = document.pop("files")
    seal(folder, "manifest", document)
    if "files" in change:
        data = (folder / "manifest.json").read_text()
        data = json.dumps({**json.loads(data), "files": files})
        (folder / "manifest.json").write_text(data)
        digest = hashlib.sha256(data.encode()).hexdigest()
        (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


@pytest.mark.parametrize(("bits", "scales"), [(1, "table"), (1, "row"), (2, "symmetric"), (2, "dimension"), (8, "row")])
def test_a_loaded_index_is_the_saved_one(tmp_path: Path, bits: int, scales: Any) -> None:
    index = make(bits, scales)
    index.save(tmp_path / "index")
    for loaded in (Index.load(tmp_path / "index"), Index.load(tmp_path / "index", check=False)):
        for one, other in zip(index.search(QUERIES, 80), loaded.search(QUERIES, 80), strict=True):
            assert torch.equal(one, other)
        assert len(loaded) == len(index) == 75
        assert (loaded.bits, loaded.metric, loaded.query_bits) == (index.bits, index.metric, index.query_bits)


def test_pages_of_a_file_are_read_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(huge_pages, "move_tables", moved.extend)
    Index.from_embeddings(torch.randn(40, 16), 4).save(tmp_path / "index")
    assert len(moved) == 1
    Index.load(tmp_path / "index")
    assert len(moved) == 1


def test_changes_of_a_loaded_index_leave_the_files_alone(tmp_path: Path) -> None:
    make().save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    loaded.update(torch.arange(5), torch.randn(5, 20))
    loaded.add(torch.randn(100, 20))
    loaded.delete(torch.arange(71, 150))
    assert torch.equal(Index.load(tmp_path / "index").search(QUERIES, 9)[1], make().search(QUERIES, 9)[1])
    loaded.save(tmp_path / "index")
    assert torch.equal(Index.load(tmp_path / "index").search(QUERIES, 9)[1], loaded.search(QUERIES, 9)[1])


def test_empty_indices_are_kept(tmp_path: Path) -> None:
    Index.from_embeddings(torch.empty(0, 20)).save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert len(loaded) == 0
    assert loaded.add(QUERIES).tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_flipped_byte_or_a_short_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage") / "index"
    make().save(folder)
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    held = bytearray(file.read_bytes())
    where = data.draw(st.integers(0, len(held) - 1))
    if data.draw(st.booleans()):
        held[where] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del held[where:]
    file.write_bytes(held)
    with pytest.raises(ArtifactError):
        Index.load(folder)


def test_folders_of_earlier_formats_are_refused_with_the_mend(tmp_path: Path) -> None:
    """Their manifests contain their own checksum, and their arrays are .npy files."""
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "items": 3, "files": {}, "crc32": 0}))
    with pytest.raises(ArtifactError, match=r"format 2, this recfx reads format 3[\s\S]*save it again"):
        Index.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"items": 78},
        {"items": -1},
        {"items": 1 << 40},
        {"items": True},
        {"dim": 1 << 40},
        {"dim": 0},
        {"bits": 3},
        {"bits": 8},
        {"metric": "hamming"},
        {"metric": "l2"},
        {"query_bits": 1},
        {"scales": "table"},
        {"scales": None},
        {"files": {}},
        {"surplus": 1},
    ],
)
def test_options_that_do_not_fit_the_arrays_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    make().save(tmp_path / "index")
    rewrite(tmp_path / "index", **change)
    with pytest.raises(ArtifactError):
        Index.load(tmp_path / "index")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("blocks", torch.zeros(5, 3, 16)),
        ("blocks", torch.zeros(5, 2, 16, dtype=torch.int32)),
        ("step", torch.zeros(77, dtype=torch.float64)),
        ("lower", torch.zeros(76)),
        ("dead", torch.zeros(1, dtype=torch.int64)),
        ("dead", torch.zeros(2, 2, dtype=torch.int64)),
        ("dead", torch.zeros(2)),
        ("more", torch.zeros(2)),
    ],
)
def test_arrays_that_do_not_fit_the_options_are_refused(tmp_path: Path, name: str, array: torch.Tensor) -> None:
    folder = tmp_path / "index"
    make().save(folder)
    save_file({**load_file(folder / "arrays.safetensors"), name: array}, folder / "arrays.safetensors")
    rewrite(folder)
    with pytest.raises(ArtifactError, match=name):
        Index.load(folder)


def test_missing_files_other_formats_and_other_folders(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no saved index"):
        Index.load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="not an index"):
        make().save(tmp_path)
    make().save(tmp_path / "index")
    rewrite(tmp_path / "index", format=99)
    with pytest.raises(ArtifactError, match="format 99"):
        Index.load(tmp_path / "index")
    make().save(tmp_path / "index")
    (tmp_path / "index" / "arrays.safetensors").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        Index.load(tmp_path / "index")
