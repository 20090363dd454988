"""The journal of new rows: what was appended is read; records that were cut short end it, and other damage is an error."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from child_process import Child
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.errors import ArtifactError, InputError
from recfx.formats.row_journal import Record, RowJournal

ROWS = (torch.tensor([3, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def _filled(path: Path, count: int) -> list[int]:
    """Appends updates; returns the size of the file before each, and after the last."""
    journal = RowJournal(path, "base")
    sizes = [journal.size]
    for number in range(count):
        with journal.locked():
            journal.append(Record({"items": (ROWS[0], ROWS[1] + number)}))
        sizes.append(journal.size)
    return sizes


def _read(path: Path, base: str = "base") -> list[Record]:
    return list(RowJournal(path, base).read())


@settings(max_examples=15)
@given(data=st.data())
def test_what_was_appended_is_read(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "rows"
    written = []
    for _ in range(data.draw(st.integers(0, 4))):
        updates = {}
        for name in data.draw(st.lists(st.text("a.é", min_size=1), unique=True, max_size=3)):
            count, columns = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
            kinds = [
                torch.float32,
                torch.float64,
                torch.float16,
                torch.bfloat16,
                torch.int64,
                torch.int32,
                torch.uint8,
                torch.bool,
            ]
            dtype = data.draw(st.sampled_from(kinds))
            updates[name] = torch.randint(0, 9, (count,)), torch.randn(count, columns).to(dtype)
        written.append(Record(updates, data.draw(st.sampled_from(["", "1a2b"]))))
        journal = RowJournal(path, "base", data.draw(st.sampled_from(["process", "disk"])))
        with journal.locked():
            list(journal.read())
            journal.append(written[-1])
    found = _read(path)
    assert [record.continued for record in found] == [record.continued for record in written]
    for got, want in zip(found, written, strict=True):
        assert list(got.updates) == list(want.updates)
        for name, (ids, rows) in want.updates.items():
            assert torch.equal(got.updates[name][0], ids)
            assert got.updates[name][1].dtype is rows.dtype
            assert torch.equal(got.updates[name][1], rows)


def test_a_record_that_was_cut_short_ends_the_journal_and_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    sizes = _filled(path, 2)
    whole = path.read_bytes()
    for size in range(sizes[1], sizes[2]):
        path.write_bytes(whole[:size])
        assert len(_read(path)) == 1
    journal = RowJournal(path, "base")
    with journal.locked():
        (first,) = journal.read()
        journal.append(first)
    assert [torch.equal(record.updates["items"][1], ROWS[1]) for record in _read(path)] == [True, True]


def test_a_header_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    whole = _filled(path, 0)
    data = path.read_bytes()
    for size in range(whole[0]):
        path.write_bytes(data[:size])
        assert _read(path) == []
        assert path.read_bytes() == data


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_is_an_error_or_loses_only_the_last_update(
    place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "rows"
    sizes = _filled(path, 3)
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    path.write_bytes(data)
    if at >= sizes[2] + 20:  # behind the head of the last record
        assert len(_read(path)) == 2
    else:
        with pytest.raises(ArtifactError) as caught:
            _read(path)
        assert str(path) in str(caught.value.where)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"something else, and long enough", "not a journal"),
        (b"recfxrow\x63\0\0\0\1\0\0\0x....", "of version 99"),
        (b"recfxrow\1\0\0\0\xff\xff\xff\xff....", "of version 1"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        RowJournal(tmp_path / "rows", "base")
    assert (tmp_path / "rows").read_bytes() == content


def test_journals_of_other_models_links_and_bad_arguments_are_refused(tmp_path: Path) -> None:
    _filled(tmp_path / "rows", 1)
    with pytest.raises(ArtifactError, match="belongs to the saved model 'base', not to 'other'"):
        RowJournal(tmp_path / "rows", "other")
    (tmp_path / "link").symlink_to(tmp_path / "rows")
    with pytest.raises(ArtifactError, match="cannot be opened"):
        RowJournal(tmp_path / "link", "base")
    with pytest.raises(ArtifactError, match="cannot be opened"):
        RowJournal(tmp_path, "base")
    with pytest.raises(InputError, match="'sometimes' is not a way"):
        RowJournal(tmp_path / "new", "base", "sometimes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is too long"):
        RowJournal(tmp_path / "new", "x" * 300)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    _filled(path, 2)
    before = path.read_bytes()
    journal = RowJournal(path, "base")
    many = Record({"items": (torch.arange(1000), torch.randn(1000, 64))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with journal.locked():
        list(journal.read())
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5000, hard))
        try:
            with pytest.raises(ArtifactError, match="cannot be written: File too large") as caught:
                journal.append(many)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "free space" in str(caught.value)
        assert path.read_bytes() == before
        journal.append(many)
    assert len(_read(path)) == 3


def test_a_writer_that_is_killed_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows"

    def write(tell: Callable[[object], object]) -> None:
        journal = RowJournal(path, "base")
        number = 0
        while True:
            rows = torch.full((5000, 64), float(number))
            with journal.locked():
                list(journal.read())
                journal.append(Record({"items": (torch.arange(5000), rows)}))
            number += 1
            tell(number)

    for _ in range(3):
        before = len(_read(path)) if path.exists() else 0
        writer = Child(write)
        assert writer.line() == "1"
        time.sleep(0.05)
        reported = 1 + len(writer.kill())
        found = _read(path)
        assert before + reported <= len(found) <= before + reported + 1
        for record in found:
            rows = record.updates["items"][1]
            assert bool((rows == rows[0, 0]).all())


def test_readers_follow_a_writer(tmp_path: Path) -> None:
    writer, reader = (RowJournal(tmp_path / "rows", "base") for _ in range(2))
    for _ in range(3):
        assert list(reader.read()) == []
        with writer.locked():
            writer.append(Record({"items": ROWS}))
        assert reader.size > reader.position
        (record,) = reader.read()
        assert torch.equal(record.updates["items"][0], ROWS[0])
    descriptors = len(os.listdir("/proc/self/fd"))
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
