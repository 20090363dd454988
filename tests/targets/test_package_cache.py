"""The cache of compiled packages: damaged files, unsafe and full folders, two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from child_process import Child

from recfx.targets import package_cache


def package(folder: Path, content: bytes = b"a library") -> Path:
    file = folder / "made.pt2"
    file.write_bytes(content)
    return file


def test_packages_are_stored_and_found(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert package_cache.stored(cache, "key") is None
    kept = package_cache.store(cache, "key", package(tmp_path), {"frozen": True})
    assert kept is not None
    found = package_cache.stored(cache, "key")
    assert found is not None
    assert (found[0].read_bytes(), found[1]["frozen"]) == (b"a library", True)
    assert package_cache.store(cache, "key", package(tmp_path, b"another"), {}) == kept, "the first one stays"
    assert kept.read_bytes() == b"a library"
    assert [file.name for file in cache.iterdir()] == ["key"], "nothing else is left in the folder"


@pytest.mark.parametrize("damage", ["package", "cut", "record", "empty record", "list", "no package", "no record"])
def test_damaged_packages_are_not_loaded_and_are_replaced(tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    place = cache / "key"
    package_cache.store(cache, "key", package(tmp_path), {})
    match damage:
        case "package":
            (place / "package.pt2").write_bytes(b"other code")
        case "cut":
            (place / "package.pt2").write_bytes(b"a lib")
        case "record":
            (place / "record.json").write_text('{"sha256": "00"}')
        case "empty record":
            (place / "record.json").write_text("")
        case "list":
            (place / "record.json").write_text(json.dumps([1]))
        case "no package":
            (place / "package.pt2").unlink()
        case "no record":
            (place / "record.json").unlink()
    assert package_cache.stored(cache, "key") is None
    assert package_cache.store(cache, "key", package(tmp_path, b"new"), {}) is not None
    found = package_cache.stored(cache, "key")
    assert found is not None
    assert found[0].read_bytes() == b"new"


@pytest.mark.parametrize("place", ["", "key"])
def test_a_folder_that_others_can_write_to_is_not_trusted(tmp_path: Path, place: str) -> None:
    cache = tmp_path / "cache"
    package_cache.store(cache, "key", package(tmp_path), {})
    (cache / place).chmod(0o777)
    assert package_cache.stored(cache, "key") is None


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert package_cache.store(tmp_path / "file" / "cache", "key", package(tmp_path), {}) is None

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package_cache.shutil, "copyfile", full)
    assert package_cache.store(tmp_path / "cache", "key", package(tmp_path), {}) is None
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_store_one_key(tmp_path: Path) -> None:
    def store(name: str) -> None:
        file = tmp_path / name
        file.write_bytes(b"a library")
        for i in range(40):
            kept = package_cache.store(tmp_path / "cache", f"key-{i}", file, {})
            assert kept is not None
            assert kept.read_bytes() == b"a library", i
            assert package_cache.stored(tmp_path / "cache", f"key-{i}") is not None, i

    running = [Child(lambda tell, name=name: store(name)) for name in ("one", "two")]  # type: ignore[misc]
    assert [process.wait() for process in running] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 40


@pytest.mark.parametrize("backend", ["inductor", "tensorrt"])
def test_the_cache_is_in_the_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert package_cache.default_folder(backend) == tmp_path / "recfx" / backend
