"""Measured regions on disk: found again, kept apart by machine, threads, backend and version, and never trusted when damaged."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import recfx.cost.cache_files as cache_files
import recfx.cost.unit_cache as unit_cache
from recfx.cost.cache_files import read_document, write_document
from recfx.cost.unit_cache import MeasuredUnit, UnitCache, bucket


def unit(digest: str = "d", rows: int = 16, seconds: float = 1e-5) -> MeasuredUnit:
    return MeasuredUnit(digest, rows, {"product.fp32": 1e-6}, seconds, seconds * 0.9, seconds * 1.1)


def the_file(folder: Path) -> Path:
    (file,) = folder.glob("units-*.json")
    return file


def test_measurements_come_back(tmp_path: Path) -> None:
    UnitCache("native", "1", 1, tmp_path).add([unit(), unit("e", 1), unit(rows=1024)])
    again = UnitCache("native", "1", 1, tmp_path)
    assert len(again) == 3
    assert again.find("d", 16) == unit()
    assert again.find("d", 20) == unit()
    assert again.find("d", 100) is None
    assert again.find("absent", 16) is None
    assert sum(1 for _ in again.samples()) == 3


def test_a_later_measurement_replaces_an_earlier_one_of_the_same_bucket(tmp_path: Path) -> None:
    cache = UnitCache("native", "1", 1, tmp_path)
    cache.add([unit(rows=16, seconds=1.0)])
    cache.add([unit(rows=15, seconds=2.0)])
    for held in (cache, UnitCache("native", "1", 1, tmp_path)):
        assert [sample.seconds for sample in held.samples()] == [2.0]


@given(rows=st.integers(0, 2**40))
def test_buckets_hold_numbers_within_a_factor_of_two(rows: int) -> None:
    assert bucket(rows) <= bucket(rows + 1) <= bucket(rows) + 1
    assert bucket(2 * rows) <= bucket(rows) + 1


def test_the_buckets() -> None:
    assert [bucket(rows) for rows in (0, 1, 2, 3, 4, 5, 8, 9, 1024)] == [0, 0, 1, 2, 2, 3, 3, 4, 10]


def test_machines_threads_backends_and_versions_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    UnitCache("native", "1", 1, tmp_path).add([unit()])
    for other in (("eager", "1", 1), ("native", "2", 1), ("native", "1", 2)):
        assert len(UnitCache(*other, tmp_path)) == 0
    monkeypatch.setattr(unit_cache, "identity", lambda threads: ("another machine", 2, (), threads, "2.13"))
    assert len(UnitCache("native", "1", 1, tmp_path)) == 0


def test_a_file_of_another_machine_under_this_name_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    UnitCache("native", "1", 1, tmp_path).add([unit()])
    file = the_file(tmp_path)
    document = read_document(file)
    for change in ({"identity": ["else"]}, {"units": "none"}, {"units": [{"digest": 1}]}, {"units": None}):
        write_document(file, document | change)
        assert len(UnitCache("native", "1", 1, tmp_path)) == 0
    write_document(file, [1, 2])
    assert len(UnitCache("native", "1", 1, tmp_path)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": -1.0},
        {"seconds": 0.0, "low": 0.0},
        {"seconds": {"float": "nan"}},
        {"high": {"float": "inf"}},
        {"low": 1.0},
        {"rows": -3},
        {"columns": {"product.fp32": -1.0}},
        {"columns": {"product.fp32": {"float": "nan"}}},
    ],
)
def test_numbers_that_no_measurement_gives_are_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    UnitCache("native", "1", 1, tmp_path).add([unit(), unit("e")])
    file = the_file(tmp_path)
    document = read_document(file)
    document["units"][0] |= change
    write_document(file, document)
    assert {key for key, _ in UnitCache("native", "1", 1, tmp_path)._held} == {"e"}


def test_a_measurement_with_wrong_numbers_is_not_kept(tmp_path: Path) -> None:
    cache = UnitCache("native", "1", 1, tmp_path)
    cache.add([dataclasses.replace(unit(), seconds=float("nan"))])
    assert len(cache) == 0
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    UnitCache("native", "1", 1, tmp_path).add([unit()])
    the_file(tmp_path).write_bytes(the_file(tmp_path).read_bytes()[:-40])
    cache = UnitCache("native", "1", 1, tmp_path)
    assert len(cache) == 0
    cache.add([unit("new")])
    assert UnitCache("native", "1", 1, tmp_path).find("new", 16) == unit("new")


def test_a_folder_that_cannot_be_written_keeps_measurements_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_files, "_told", set())
    (tmp_path / "file").write_text("")
    cache = UnitCache("native", "1", 1, tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        cache.add([unit()])
    assert cache.find("d", 16) == unit()


def test_without_a_cache_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = UnitCache("native", "1", 1, False)
    cache.add([unit()])
    assert cache.find("d", 16) == unit()
    assert not list(tmp_path.iterdir())


def test_the_oldest_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_cache, "_MOST", 3)
    cache = UnitCache("native", "1", 1, tmp_path)
    for digest in "abcde":
        cache.add([unit(digest)])
    for held in (cache, UnitCache("native", "1", 1, tmp_path)):
        assert [digest for digest, _ in held._held] == ["c", "d", "e"]


def many_measurements(folder: Path, name: str) -> None:
    cache = UnitCache("native", "1", 1, folder)
    for number in range(15):
        cache.add([unit(f"{name}{number}")])
    assert len(cache) >= 15


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    processes = [
        multiprocessing.get_context("fork").Process(target=many_measurements, args=(tmp_path, name)) for name in "ab"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = {digest for digest, _ in UnitCache("native", "1", 1, tmp_path)._held}
    assert found == {f"{name}{number}" for name in "ab" for number in range(15)}
