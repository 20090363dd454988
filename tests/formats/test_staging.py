"""Folders that are written completely or not: permissions, killed writers, several writers at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from child_process import Child

from recfx.formats import staging
from recfx.formats.staging import clear_stale, write_folder


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    for name in ("a.json", "inner/b.safetensors"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o600)  # as safetensors writes them


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("mask", "folders", "files"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)]
)
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, folders: int, files: int) -> None:
    with umask(mask):
        write_folder(tmp_path / "model", fill)
        write_folder(tmp_path / "model", fill)
    assert [mode(tmp_path / "model" / name) for name in (".", "inner")] == [folders, folders]
    assert [mode(tmp_path / "model" / name) for name in ("a.json", "inner/b.safetensors")] == [files, files]


def test_a_writer_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", fill)

    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "model", broken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert (tmp_path / "model" / "a.json").read_text() == "a.json"


def test_the_folder_of_a_killed_writer_is_removed_by_the_next(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "half").write_text("x")
        os._exit(9)

    assert Child(lambda tell: write_folder(tmp_path / "model", half)).wait() == 9
    assert [p.name.startswith(".model.recfx-") for p in tmp_path.iterdir()] == [True]
    write_folder(tmp_path / "model", fill)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_the_folder_of_a_living_writer_stays(tmp_path: Path) -> None:
    go, told = os.pipe()

    def write(tell: Callable[[object], object]) -> None:
        def half(folder: Path) -> None:
            (folder / "half").write_text("x")
            tell("filling")
            os.read(go, 1)

        write_folder(tmp_path / "model", half)

    writer = Child(write)
    assert writer.line() == "filling"
    write_folder(tmp_path / "model", fill)
    assert len(list(tmp_path.iterdir())) == 2
    os.write(told, b"!")
    assert writer.wait() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["half"]  # the last writer's
    os.close(go)
    os.close(told)


def test_hidden_folders_of_others_stay(tmp_path: Path) -> None:
    names = [
        ".model-backup",
        ".model.recfx-notes",
        ".other.recfx-0123456789abcdef",
        ".model.recfx-0123456789abcdef.txt",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    clear_stale(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_a_symbolic_link_goes_on_pointing_to_what_was_written(tmp_path: Path) -> None:
    write_folder(tmp_path / "v1", fill)
    (tmp_path / "current").symlink_to("v1")
    write_folder(tmp_path / "current", lambda folder: (folder / "new").touch())
    assert (tmp_path / "current").is_symlink()
    assert [p.name for p in (tmp_path / "v1").iterdir()] == ["new"]


def test_writers_beside_each_other_leave_one_whole_folder(tmp_path: Path) -> None:
    def write(number: int) -> None:
        def numbered(folder: Path) -> None:
            for name in ("a", "b"):
                (folder / name).write_text(str(number))

        for _ in range(20):
            write_folder(tmp_path / "model", numbered)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert len({(tmp_path / "model" / name).read_text() for name in ("a", "b")}) == 1


def test_without_an_exchange_in_one_step_folders_are_replaced_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_renameat2", lambda: None)
    write_folder(tmp_path / "model", fill)
    write_folder(tmp_path / "model", lambda folder: (folder / "new").touch())
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]


def test_the_only_copy_stays_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    (tmp_path / ".model.recfx-old-0123456789abcdef").mkdir()
    clear_stale(tmp_path / "model")
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "model").mkdir()
    clear_stale(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
