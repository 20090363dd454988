"""Updates outlive the process that made them, several processes have the same, and saving the model begins a new journal."""

from __future__ import annotations

import copy
import logging
import resource
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from child_process import Child
from live_rows_kit import NAMES, ROWS, Tables, drawn, inputs, optimize

import recfx
from recfx.driver import artifact, update_journal
from recfx.errors import ArtifactError

Kept = Callable[[], recfx.CompiledModel]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model, which tests copy."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    optimize(Tables().eval(), precision=request.param).save(folder)
    return folder


@pytest.fixture
def kept(saved: Path, tmp_path: Path) -> Kept:
    """Loads a saved model and keeps its updates."""
    shutil.copytree(saved, tmp_path / "model")

    def load() -> recfx.CompiledModel:
        fast = recfx.load(tmp_path / "model")
        fast.keep_updates(tmp_path / "model")
        return fast

    return load


def _journals(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model.rows-*"))


def test_a_loaded_model_has_the_updates(kept: Kept, tmp_path: Path) -> None:
    fast = kept()
    assert fast.keep_updates.__doc__
    for seed in range(3):
        assert fast.update_tables(drawn(NAMES, 20, seed)) == seed + 1
    again = recfx.load(tmp_path / "model")
    assert not torch.equal(again(*inputs()), fast(*inputs()))
    assert again.keep_updates(tmp_path / "model") == 3
    assert torch.equal(again(*inputs()), fast(*inputs()))
    assert again.table_version == 3


@pytest.mark.parametrize("kernel", [True, False])
def test_processes_follow_each_other(kept: Kept, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel:
        monkeypatch.setattr(update_journal, "missing", lambda: "not built")
    first, second = kept(), kept()
    assert (first.follow_updates(), second.follow_updates()) == (0, 0)
    first.update_tables(drawn(NAMES, 20, 1))
    second.update_tables(drawn(NAMES, 20, 2))  # the update of the other comes first
    assert second.table_version == 2
    assert first.follow_updates() == 1
    assert torch.equal(first(*inputs()), second(*inputs()))
    assert torch.equal(kept()(*inputs()), second(*inputs()))


def test_updates_of_many_threads_and_models_have_one_order(kept: Kept) -> None:
    models = [kept() for _ in range(3)]

    def write(number: int) -> None:
        for turn in range(5):
            models[number].update_tables(drawn(NAMES, 10, 10 * number + turn))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fast in models:
        fast.follow_updates()
        assert fast.table_version == 15
        assert torch.equal(fast(*inputs()), models[0](*inputs()))
    assert torch.equal(kept()(*inputs()), models[0](*inputs()))


def test_saving_to_the_same_folder_begins_a_new_journal(kept: Kept, tmp_path: Path) -> None:
    fast, other = kept(), kept()
    first = _journals(tmp_path)
    fast.update_tables(drawn(NAMES, 20, 1))
    fast.save(tmp_path / "model")
    second = _journals(tmp_path)
    assert len(second) == 2
    assert first[0] in second
    plain = recfx.load(tmp_path / "model")
    assert torch.equal(plain(*inputs()), fast(*inputs()))
    other.update_tables(drawn(NAMES, 20, 2))  # written to the new journal, although it was behind
    assert fast.follow_updates() == 1
    assert torch.equal(fast(*inputs()), other(*inputs()))
    assert torch.equal(kept()(*inputs()), other(*inputs()))
    other.save(tmp_path / "model")
    assert len(_journals(tmp_path)) == 2  # the first one is gone
    assert first[0] not in _journals(tmp_path)
    fast.save(tmp_path / "elsewhere")
    assert not list(tmp_path.glob("elsewhere.rows-*"))
    assert fast.update_tables({}) == 3


def test_a_crash_between_the_journals_and_the_folders_loses_nothing(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, other = kept(), kept()
    fast.update_tables(drawn(NAMES, 20, 1))

    def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
        (tmp_path / "staging").mkdir()
        fill(tmp_path / "staging")
        raise KeyboardInterrupt  # the process ends before the folders are exchanged

    with monkeypatch.context() as patched:
        patched.setattr(artifact, "write_folder", write_folder)
        with pytest.raises(KeyboardInterrupt):
            fast.save(tmp_path / "model")
    assert torch.equal(kept()(*inputs()), fast(*inputs()))
    other.update_tables(drawn(NAMES, 20, 2))
    assert torch.equal(kept()(*inputs()), other(*inputs()))
    assert fast.follow_updates() == 1
    fast.save(tmp_path / "model")
    assert torch.equal(kept()(*inputs()), other(*inputs()))


def test_a_full_disk_leaves_tables_and_journal_as_they_were(kept: Kept) -> None:
    fast = kept()
    fast.update_tables(drawn(NAMES, 5, 1))
    want = fast(*inputs())
    journal = fast._journal
    assert journal is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 100, hard))
    try:
        with pytest.raises(ArtifactError, match="neither in the journal nor in the tables"):
            fast.update_tables(drawn(NAMES, 20, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fast.table_version == 1
    for each in (fast, kept()):
        assert torch.equal(each(*inputs()), want)
    assert fast.update_tables(drawn(NAMES, 20, 2)) == 2
    assert torch.equal(kept()(*inputs()), fast(*inputs()))


def test_refused_updates_are_not_in_the_journal(kept: Kept) -> None:
    fast = kept()
    journal = fast._journal
    assert journal is not None
    size = journal.path.stat().st_size
    for ids, rows in (([ROWS], torch.zeros(1, 16)), ([0], torch.full((1, 16), float("nan")))):
        with pytest.raises(recfx.InputError):
            fast.update_tables({"users": (ids, rows)})
    assert journal.path.stat().st_size == size


def test_a_journal_that_is_taken_away_is_noticed(kept: Kept) -> None:
    fast = kept()
    journal = fast._journal
    assert journal is not None
    journal.path.rename(journal.path.with_name("moved"))
    with pytest.raises(ArtifactError, match="removed or replaced"):
        fast.update_tables(drawn(NAMES, 5, 1))
    assert fast.table_version == 0


def test_a_journal_that_is_cut_while_it_is_in_use_is_noticed(kept: Kept) -> None:
    fast = kept()
    fast.update_tables(drawn(NAMES, 5, 1))
    journal = fast._journal
    assert journal is not None
    want = fast(*inputs())
    with journal.path.open("r+b") as file:
        file.truncate(file.seek(0, 2) - 7)
    with pytest.raises(ArtifactError, match="was cut to"):
        fast.update_tables(drawn(NAMES, 5, 2))
    assert fast.table_version == 1
    assert torch.equal(fast(*inputs()), want)


def test_an_update_waits_for_the_lock_of_another_process(kept: Kept) -> None:
    fast, other = kept(), kept()
    journal = other._journal
    assert journal is not None
    with journal.locked():
        thread = threading.Thread(target=fast.update_tables, args=(drawn(NAMES, 5, 1),))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert fast.table_version == 0
    thread.join()
    assert fast.table_version == 1
    assert other.follow_updates() == 1
    assert torch.equal(fast(*inputs()), other(*inputs()))


def test_a_journal_whose_last_update_was_cut_short(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = kept()
    fast.update_tables(drawn(NAMES, 5, 1))
    want = fast(*inputs())
    fast.update_tables(drawn(NAMES, 5, 2))
    journal = fast._journal
    assert journal is not None
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-7])
    again = kept()
    assert torch.equal(again(*inputs()), want)
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("recfx"), "warning", lambda text, *_: said.append(text))
    again.update_tables(drawn(NAMES, 5, 2))
    assert "cut short" in said[0]
    assert journal.path.read_bytes() == data


def test_models_that_the_folder_does_not_hold_are_refused(kept: Kept, tmp_path: Path) -> None:
    fast = kept()
    with pytest.raises(recfx.InputError, match="keeps its updates already"):
        fast.keep_updates(tmp_path / "model")
    with pytest.raises(recfx.InputError, match="keeps its updates in a journal"):
        fast.refresh(Tables().eval(), example_inputs=inputs())
    other = optimize(Tables().eval())
    with pytest.raises(recfx.InputError, match="does not hold this model"):
        other.keep_updates(tmp_path / "model")
    other.save(tmp_path / "model")
    other.update_tables(drawn(NAMES, 5))
    with pytest.raises(recfx.InputError, match="does not hold this model"):
        other.keep_updates(tmp_path / "model")
    with pytest.raises(ArtifactError, match="no saved model"):
        copy.copy(recfx.load(tmp_path / "model")).keep_updates(tmp_path / "none")
    saved = recfx.load(tmp_path / "model")
    assert saved.keep_updates(tmp_path / "model", sync="disk") == 0
    assert saved.update_tables(drawn(NAMES, 5)) == 1


def test_a_process_that_is_killed_loses_nothing_that_it_reported(kept: Kept, tmp_path: Path) -> None:
    def write(tell: Callable[[object], object]) -> None:
        fast = recfx.load(tmp_path / "model")
        seed = fast.keep_updates(tmp_path / "model")
        while True:
            rows = torch.full((40, 16), float(seed % 7) + 1)
            fast.update_tables({name: (torch.arange(40), rows) for name in ("users", "items", "tags")})
            seed += 1
            tell(seed)

    writer = Child(write)
    assert writer.line() == "1"
    time.sleep(0.05)
    last = int(["1", *writer.kill()][-1])
    fast = kept()
    assert last <= fast.table_version <= last + 1
    other = recfx.load(tmp_path / "model")
    rows = torch.full((40, 16), float((fast.table_version - 1) % 7) + 1)
    other.update_tables({name: (torch.arange(40), rows) for name in ("users", "items", "tags")})
    assert torch.equal(fast(*inputs()), other(*inputs()))
