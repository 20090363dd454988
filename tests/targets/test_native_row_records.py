"""The kernel appends the records that the journal of `recfx.formats` would, only where it may, and its checksum is that of zlib."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import needs_kernels

from recfx.formats.row_journal import Record, RowJournal, payload_parts
from recfx.kernels.row_records import Outcome, RowRecord, checksum
from recfx.kernels.row_writes import RowUpdate, RowWrites

pytestmark = needs_kernels
UPDATES = {"items": (torch.tensor([3, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))}


def recorded(journal: RowJournal, record: Record, *, locked: bool = False) -> RowRecord:
    """A record that the kernel is to append."""
    place = (journal.file, os.fsencode(journal.path), journal.position)
    return RowRecord(*place, *payload_parts(record), locked=locked, to_disk=journal.to_disk)


def tables() -> tuple[torch.Tensor, RowWrites]:
    """A table of zeros, and ones on their way there."""
    table = torch.zeros(3, 4)
    return table, RowWrites([RowUpdate(table, torch.zeros(3, 4), torch.tensor([1]), torch.ones(1, 4), 32)])


def appended(journal: RowJournal, record: Record, *, locked: bool = False) -> RowRecord:
    """A record that the kernel was to append, with rows that are written only if it did."""
    table, writes = tables()
    made = recorded(journal, record, locked=locked)
    assert writes.write(record=made) == -1
    assert bool(table.any()) == (made.outcome is Outcome.WRITTEN)
    if made.outcome is Outcome.WRITTEN:
        journal.position = made.position
    return made


@given(
    size=st.one_of(st.integers(0, 300), st.sampled_from([1024, 4093, 70000])),
    begin=st.integers(0, 20),
    before=st.integers(0, 2**32 - 1),
    portable=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_the_checksum_is_that_of_zlib(size: int, begin: int, before: int, portable: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (begin + size,), generator=generator, dtype=torch.uint8).numpy().tobytes()[begin:]
    assert checksum(data, before, portable=portable) == zlib.crc32(data, before)


@given(
    counts=st.lists(st.integers(0, 5), max_size=4),
    columns=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    disk=st.booleans(),
    locked=st.booleans(),
)
def test_a_record_has_the_bytes_of_the_journal(
    counts: list[int],
    columns: int,
    dtype: torch.dtype,
    disk: bool,
    locked: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("journals")
    updates = {str(n): (torch.arange(n), torch.randn(n, columns).to(dtype)) for n in counts}
    ours, theirs = (RowJournal(folder / name, "base", "disk" if disk else "process") for name in ("a", "b"))
    for _ in range(2):
        theirs.append(Record(updates))
        if locked:
            with ours.locked():
                assert appended(ours, Record(updates), locked=True).outcome is Outcome.WRITTEN
        else:
            assert appended(ours, Record(updates)).outcome is Outcome.WRITTEN
        assert ours.position == theirs.position
    assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_a_record_of_more_parts_than_one_call_of_the_system_takes(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "rows", "base")
    updates = {str(n): (torch.tensor([n]), torch.full((1, 2), float(n))) for n in range(1300)}
    assert appended(journal, Record(updates)).outcome is Outcome.WRITTEN
    (found,) = RowJournal(tmp_path / "rows", "base").read()
    assert all(torch.equal(found.updates[name][1], rows) for name, (_, rows) in updates.items())


def test_a_journal_that_others_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    journal, other = RowJournal(path, "base"), RowJournal(path, "base")
    with other.locked():
        assert appended(journal, Record(UPDATES)).outcome is Outcome.NOT_READY
    other.append(Record(UPDATES))
    before = path.read_bytes()
    assert appended(journal, Record(UPDATES)).outcome is Outcome.NOT_READY
    assert path.read_bytes() == before
    list(journal.read())
    assert appended(journal, Record(UPDATES)).outcome is Outcome.WRITTEN
    fcntl.flock(other.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel has given its lock back


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_not_at_its_path_is_left_alone(tmp_path: Path, replaced: bool) -> None:
    journal = RowJournal(tmp_path / "rows", "base")
    (tmp_path / "rows").rename(tmp_path / "moved")
    if replaced:
        RowJournal(tmp_path / "rows", "base")
    assert appended(journal, Record(UPDATES)).outcome is Outcome.NOT_READY
    assert journal.size == journal.position


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "rows", "base")
    appended(journal, Record(UPDATES))
    before = journal.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5000, hard))
    try:
        made = appended(journal, Record({"items": (torch.arange(1000), torch.randn(1000, 64))}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (made.outcome, made.error) == (Outcome.REFUSED, errno.EFBIG)
    assert journal.path.read_bytes() == before
    assert appended(journal, Record(UPDATES)).outcome is Outcome.WRITTEN


def test_rows_that_do_not_fit_are_not_in_the_journal(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "rows", "base")
    for ids, rows in ((torch.tensor([3]), torch.ones(1, 4)), (torch.tensor([1]), torch.full((1, 4), float("nan")))):
        made = recorded(journal, Record(UPDATES))
        writes = RowWrites([RowUpdate(torch.zeros(3, 4), torch.zeros(3, 4), ids, rows, 32)])
        assert writes.write(record=made) == 0
        assert made.outcome is Outcome.NOT_READY
    assert journal.size == journal.position


def test_late_rows_are_carried_over_first() -> None:
    first, second = torch.zeros(3, 4), torch.zeros(3, 4)
    early = RowWrites([RowUpdate(first, second, torch.tensor([0, 1]), torch.ones(2, 4))])
    assert early.write() == -1
    late = RowWrites([RowUpdate(second, first, torch.tensor([1]), torch.full((1, 4), 2.0))])
    assert late.write(early) == -1
    assert second[:, 0].tolist() == [1, 2, 0]
