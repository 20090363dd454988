"""Saved recommenders, and their journal: what was changed is there after a restart, in every process, and after a save."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recommender_kit import TABLES, items, recommender, users

from recfx.errors import ArtifactError, InputError, RecfxError
from recfx.serve import Change, Recommender

SOME = items(range(100, 130))
ASKED = users(3)


def same(one: Recommender, other: Recommender) -> None:
    for a, b in zip(one.recommend(ASKED), other.recommend(ASKED), strict=True):
        assert torch.equal(a, b)


def change(seed: int) -> dict[str, Any]:
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
    return {
        "add": items([200 + seed], seed),
        "update": items([101, 102], seed),
        "delete": torch.tensor([110 + seed]),
        "tables": {name: (torch.tensor([1, 2], dtype=torch.int32), rows) for name in TABLES},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recommender(SOME).save(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.mark.parametrize("form", ["plain", "many"])
@pytest.mark.parametrize("kind", ["one-stage", "two-stage"])
def test_a_saved_recommender_gives_the_same_answers(tmp_path: Path, form: str, kind: str) -> None:
    made = recommender(SOME, form, kind, k=4, candidates=9, score="output")
    made.update(**change(1))
    made.save(tmp_path / "shop")
    loaded = Recommender.load(tmp_path / "shop")
    same(loaded, made)
    assert (loaded.k, loaded.candidates, loaded.score, loaded.digest) == (4, 9, "output", made.digest)
    loaded.update(**change(2))
    made.update(**change(2))
    same(loaded, made)
    loaded.save(tmp_path / "shop")
    same(Recommender.load(tmp_path / "shop", check=False), made)


def test_other_folders_are_not_replaced(tmp_path: Path, folder: Path) -> None:
    made = recommender(SOME)
    (tmp_path / "other").mkdir()
    for place in (tmp_path / "other", folder / "index"):
        with pytest.raises(ArtifactError, match="not a recommender"):
            made.save(place)


def _other_index(folder: Path) -> None:
    recommender(items(range(100, 130), 7)).save(folder.with_name("second"))
    shutil.rmtree(folder / "index")
    shutil.copytree(folder.with_name("second") / "index", folder / "index")


def _cut(file: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-1])

    return cut


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no saved recommender"),
    "no index": (lambda folder: shutil.rmtree(folder / "index"), "a part is missing"),
    "another index": (_other_index, "not the one that was saved"),
    "a shorter manifest": (_cut("recommender.json"), "checksum is wrong"),
    "shorter inputs": (_cut("items.safetensors"), "items.safetensors|bytes"),
    "a shorter model": (_cut("ranking.recfx/program.json"), "program.json|bytes"),
    "a file in place of a model": (
        lambda folder: (folder / "query.recfx" / "manifest.json").unlink(),
        "part is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_refused(folder: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(ArtifactError, match=message):
        Recommender.load(folder)


def test_parts_that_do_not_fit_each_other_are_refused(folder: Path) -> None:
    """Each part is whole, and the manifest names all of them, but the index has another number of items."""
    from recfx.formats.folders import digest_of_manifest, seal
    from recfx.formats.strict_json import parse

    shutil.rmtree(folder / "index")
    recommender(items(range(100, 120))).items.index.save(folder / "index")
    manifest = parse((folder / "recommender.json").read_bytes(), "manifest")
    del manifest["files"]
    manifest["parts"]["index"] = digest_of_manifest((folder / "index" / "manifest.json").read_bytes())
    for name in ("recommender.json", "recommender.sha256"):
        (folder / name).unlink()
    seal(folder, "recommender", manifest, without=manifest["parts"])
    with pytest.raises(ArtifactError, match="do not fit each other"):
        Recommender.load(folder)


def test_changes_are_kept_for_a_restart_and_for_other_processes(folder: Path) -> None:
    alone = Recommender.load(folder)
    first, second = Recommender.load(folder), Recommender.load(folder)
    assert first.keep_updates(folder) == second.keep_updates(folder) == 0
    for seed, own in ((1, first), (2, second), (3, first)):
        own.update(**change(seed))
        alone.update(**change(seed))
    assert first.follow_updates() == 0
    assert second.follow_updates() == 1
    assert first.version == second.version == 3
    same(first, alone)
    same(second, alone)
    restarted = Recommender.load(folder)
    assert restarted.keep_updates(folder, sync="disk") == 3
    same(restarted, alone)
    assert not list(folder.glob("*/*.rows-*"))  # the models have no journals of their own


def test_a_change_that_is_refused_is_not_kept(folder: Path) -> None:
    made = Recommender.load(folder)
    made.keep_updates(folder)
    with pytest.raises(InputError, match="exists already"):
        made.update(**{**change(1), "add": items([100])})
    assert Recommender.load(folder).keep_updates(folder) == 0


def test_a_save_begins_a_new_journal(folder: Path) -> None:
    first, second = Recommender.load(folder), Recommender.load(folder)
    first.keep_updates(folder)
    second.keep_updates(folder)
    first.update(**change(1))
    (old,) = folder.parent.glob("shop.rows-*")
    first.save(folder)
    first.update(**change(2))
    assert second.follow_updates() == 2
    same(second, first)
    restarted = Recommender.load(folder)
    assert restarted.keep_updates(folder) == 1
    same(restarted, first)
    second.update(**change(3))
    assert first.follow_updates() == restarted.follow_updates() == 1
    second.save(folder.with_name("copy"))
    assert old in set(folder.parent.glob("shop.rows-*"))
    assert not list(folder.parent.glob("copy.rows-*"))


def test_journals_that_do_not_fit(folder: Path) -> None:
    made = Recommender.load(folder)
    made.update(**change(1))
    with pytest.raises(InputError, match="made since the folder was written"):
        made.keep_updates(folder)
    made = Recommender.load(folder)
    made.keep_updates(folder)
    with pytest.raises(InputError, match="kept already"):
        made.keep_updates(folder)
    other = recommender(items(range(100, 120)))
    with pytest.raises(InputError, match="changes are kept already, or were made since"):
        other.keep_updates(folder)  # it was never saved
    other.save(folder.with_name("other"))
    with pytest.raises(InputError, match="another recommender"):
        other.keep_updates(folder)
    made.update(**change(1))
    (journal,) = folder.parent.glob("shop.rows-*")
    content = journal.read_bytes()
    journal.unlink()
    with pytest.raises(ArtifactError, match="removed or replaced"):
        made.update(**change(2))
    assert made.version == 1
    for place, message in ((len(content) // 2, "checksum|damaged"), (3, "not a journal")):
        damaged = bytearray(content + content[-200:] if place > 3 else content)
        damaged[place] ^= 255
        journal.write_bytes(damaged)
        with pytest.raises(RecfxError, match=message):
            Recommender.load(folder).keep_updates(folder)


def test_a_journal_of_other_items_is_an_error(folder: Path) -> None:
    from recfx.formats.row_journal import Record, RowJournal

    digest = Recommender.load(folder).digest
    one, none = torch.tensor([100]), torch.empty(1, 0)
    records: list[tuple[dict[str, Any], str]] = [
        ({"update:ids": (one, none), "update:age": (one, torch.zeros(1, 1))}, "no 1 numbers 'update:age'"),
        ({"update:ids": (one, none), "update:price": (one, torch.zeros(1, 2))}, "no 2 numbers"),
        ({"items": (one, torch.zeros(1, 1))}, "no 1 numbers"),
        ({"delete:ids": (torch.tensor([999]), none)}, "999 does not exist"),
        ({"update:price": (one, torch.zeros(1, 1))}, "'update:ids' is missing"),
    ]
    for updates, message in records:
        path = folder.with_name(f"shop.rows-{digest}")
        path.unlink(missing_ok=True)
        journal = RowJournal(path, digest)
        with journal.locked():
            journal.append(Record(updates))
        with pytest.raises(ArtifactError, match=message):
            Recommender.load(folder).keep_updates(folder)


def test_a_change_of_a_full_disk_is_not_visible(folder: Path) -> None:
    made = Recommender.load(folder)
    made.keep_updates(folder)
    before = made.recommend(ASKED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(ArtifactError, match="cannot be written"):
            made.update(add=items(range(300, 400)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(torch.equal(a, b) for a, b in zip(made.recommend(ASKED), before, strict=True))
    made.apply(Change(**change(1)))
    restarted = Recommender.load(folder)
    assert restarted.keep_updates(folder) == 1
    same(restarted, made)
