"""The kernel appends the records that the journal of `recfx.formats` would, only where it may, and its checksum is that of zlib."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import resource
import sys
import threading
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import needs_kernels

from recfx.formats.row_journal import Record, RowJournal, payload_parts
from recfx.kernels.row_records import Outcome, RowRecord, _CRowRecord, checksum
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


#: Folders of the system that are the roots of file systems, which often have the same number.
_ROOTS = [path for path in ("/proc", "/sys", "/dev", "/dev/shm", "/dev/pts", "/run") if Path(path).is_dir()]
_TWINS = [
    pair
    for pair in itertools.permutations(_ROOTS, 2)
    if Path(pair[0]).stat().st_ino == Path(pair[1]).stat().st_ino and not Path(pair[0]).samefile(pair[1])
]


@pytest.mark.skipif(not _TWINS, reason="no two file systems here have files of the same number")
def test_a_path_that_leads_to_a_file_of_the_same_number_on_another_file_system_is_left_alone() -> None:
    for opened, path in _TWINS[:2]:
        file = os.open(opened, os.O_RDONLY)
        try:
            _, writes = tables()
            place = (file, os.fsencode(path), os.fstat(file).st_size)
            made = RowRecord(*place, *payload_parts(Record(UPDATES)), locked=True, to_disk=False)
            assert writes.write(record=made) == -1
            assert made.outcome is Outcome.NOT_READY
        finally:
            os.close(file)


#: Fields of the struct that a library of other sources, or a record without a head, would have.
WRONG_RECORDS = [("struct_bytes", ctypes.sizeof(_CRowRecord) - 8), ("struct_bytes", ctypes.sizeof(_CRowRecord) + 8)]
WRONG_RECORDS += [("part_count", count) for count in (0, -1, -(2**63))]


@pytest.mark.parametrize(("field", "value"), WRONG_RECORDS)
def test_structs_that_are_no_record_are_left_alone(field: str, value: int, tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "rows", "base")
    table, writes = tables()
    made = recorded(journal, Record(UPDATES))
    setattr(made._struct, field, value)
    assert writes.write(record=made) == -1
    assert made.outcome is Outcome.NOT_READY
    assert not table.any()
    assert journal.size == journal.position


def test_a_record_may_have_no_payload(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "rows", "base")
    _, writes = tables()
    made = recorded(journal, Record(UPDATES))
    made._struct.part_count = 1
    assert writes.write(record=made) == -1
    assert made.outcome is Outcome.WRITTEN
    assert journal.size == made.position == journal.position + 20


@pytest.mark.skipif(sys.platform != "linux", reason="the place of the system's last error has another name")
def test_the_error_of_an_earlier_call_is_no_interruption(tmp_path: Path) -> None:
    """The system leaves the number of the last error as it is where a call succeeds."""
    journal = RowJournal(tmp_path / "rows", "base")
    (_, writes), made = tables(), recorded(journal, Record(UPDATES))
    last_error = ctypes.CDLL(None).__errno_location
    last_error.restype = ctypes.POINTER(ctypes.c_int)

    def write() -> None:
        last_error().contents.value = errno.EINTR
        writes.write(record=made)

    thread = threading.Thread(target=write, daemon=True)  # a write that is taken for interrupted begins anew for ever
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert made.outcome is Outcome.WRITTEN


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


@pytest.mark.parametrize("bad", [-1, 3, 2**40])
def test_an_id_outside_is_named_also_where_the_journal_is_not_ready(bad: int, tmp_path: Path) -> None:
    journal, other = (RowJournal(tmp_path / "rows", "base") for _ in range(2))
    table = torch.zeros(3, 4)
    writes = RowWrites([RowUpdate(table, table.clone(), torch.tensor([1, bad]), torch.ones(2, 4), 32)])
    with other.locked():
        assert writes.write(record=recorded(journal, Record(UPDATES))) == 0
    assert not table.any()


def test_late_rows_are_carried_over_first() -> None:
    first, second = torch.zeros(3, 4), torch.zeros(3, 4)
    early = RowWrites([RowUpdate(first, second, torch.tensor([0, 1]), torch.ones(2, 4))])
    assert early.write() == -1
    late = RowWrites([RowUpdate(second, first, torch.tensor([1]), torch.full((1, 4), 2.0))])
    assert late.write(early) == -1
    assert second[:, 0].tolist() == [1, 2, 0]
