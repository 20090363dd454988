"""Files of the cache: damage counts as missing, folders that cannot be written cost a warning, and concurrent updates are all kept."""

from __future__ import annotations

import errno
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recfx.cost.cache_files as cache_files
from recfx.cost.cache_files import cache_folder, read_document, update_document, write_document

DOCUMENT = {"numbers": [1, 2.5, None], "text": "é"}


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "_told", set())


def test_a_document_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    assert read_document(path) is None
    assert write_document(path, DOCUMENT)
    assert read_document(path) == DOCUMENT
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_counts_as_missing(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file.json"
    write_document(path, DOCUMENT)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 2))
    damaged = bytearray(whole)
    at = data.draw(st.integers(0, len(whole) - 2))
    damaged[at] ^= data.draw(st.integers(1, 255))
    for content in (whole[:cut], bytes(damaged), data.draw(st.binary(max_size=200)), b"[" * 5000, b'{"sha256": 1}'):
        path.write_bytes(content)
        assert read_document(path) in (None, DOCUMENT)  # a space more or less outside strings is not damage
    path.write_bytes(whole[:cut])
    assert read_document(path) is None


def test_a_folder_in_place_of_the_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "file.json").mkdir()
    assert read_document(tmp_path / "file.json") is None
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert not write_document(tmp_path / "file.json", DOCUMENT)
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_a_file_in_place_of_the_folder_warns_once(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.warns(RuntimeWarning, match="make the folder writable"):
        assert not write_document(tmp_path / "folder" / "file.json", DOCUMENT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not update_document(tmp_path / "folder" / "file.json", lambda found: DOCUMENT)
        assert read_document(tmp_path / "folder" / "file.json") is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["write_bytes", "replace", "mkdir"])
def test_full_and_read_only_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int) -> None:
    path = tmp_path / "file.json"
    write_document(path, DOCUMENT)

    def fail(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(Path, operation, fail)
    with pytest.warns(RuntimeWarning, match="repeated in each process"):
        assert not write_document(path, {"other": 1})
    assert not update_document(path, lambda found: {"other": 1})
    assert read_document(path) == DOCUMENT
    assert {file.name for file in tmp_path.iterdir()} <= {"file.json", ".file.json.lock"}


def many_updates(path: Path, name: str) -> None:
    for number in range(40):
        assert update_document(path, lambda found, number=number: [*(found or []), [name, number]])  # type: ignore[misc]


def test_processes_that_update_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    processes = [multiprocessing.get_context("fork").Process(target=many_updates, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(read_document(path)) == sorted([name, i] for name in "abc" for i in range(40))


def test_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder(False) is None
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "recfx"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "recfx"

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder() is None
