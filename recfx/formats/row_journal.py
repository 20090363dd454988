"""A journal of new rows of tables: a file to which updates are appended, which several processes read and extend.

file        [8 bytes "recfxrow" | uint32 version | uint32 n | n bytes of text: what the rows belong to | uint32 CRC-32 of all before]
record      [4 bytes "ROWS" | uint32 CRC-32 of the payload | uint64 bytes of the payload | uint32 CRC-32 of these 16 bytes]
payload     [uint32 n | n bytes of JSON | ids and rows of each table, as the JSON lists them]

Numbers are little-endian. A writer holds a lock on the file (`flock`) while it appends. A record that ends behind the end of the file was
cut short by the death of its writer: readers stop before it, and the next writer removes it. Every other damage is an error.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import logging
import os
import struct
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from recfx.errors import ArtifactError, InputError
from recfx.formats import strict_json
from recfx.formats.records import decode, fields

_log = logging.getLogger("recfx")

_MAGIC, _VERSION = b"recfxrow", 1
_HEAD = struct.Struct("<4sIQI")
_ROWS = b"ROWS"
_MOST_BASE = 200
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Sync = Literal["process", "disk"]


@dataclasses.dataclass(frozen=True)
class Record:
    """One entry of a journal.

    Attributes:
        updates: Name of a table -> its ids, int64 [n], and its rows, [n, columns].
        continued: What the journal belongs to that goes on in place of this one; "" for an update.
    """

    updates: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    continued: str = ""


class RowJournal:
    """An open journal. One thread at a time may use it; other processes may have it open, too.

    Args:
        path: The file; created if it is missing.
        base: What the rows belong to: the digest of a saved model.
        sync: When an append returns: "process" when the system has the record, which then survives the death of the process; "disk" when
            the disk has it, which survives a loss of power.

    Attributes:
        path: The file.
        file: Its descriptor.
        to_disk: Whether an append waits for the disk.
        position: The end of the last record that was read or appended.
        close: Closes the file, which else happens with the end of the object.

    Raises:
        ArtifactError: The file is not a journal, is damaged, belongs to another model, or cannot be opened.
        InputError: `sync` has another value.
    """

    def __init__(self, path: Path, base: str, sync: Sync = "process") -> None:
        if sync not in ("process", "disk"):
            raise InputError(f"{sync!r} is not a way to write a journal", where="sync", hint="pass 'process' or 'disk'")
        self.path, self.base, self.to_disk = path, base, sync == "disk"
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise self._error(
                f"the journal cannot be opened: {error.strerror}", "pass a path in a folder of yours"
            ) from error
        self.close = weakref.finalize(self, os.close, self.file)
        try:
            with self.locked():
                header = _header(base)
                if os.fstat(self.file).st_size < len(header) and header.startswith(self._at(0, len(header))):
                    os.ftruncate(self.file, 0)
                    self._write([memoryview(header)], 0)
                self.position = self._checked_header(header)
        except BaseException:
            self.close()
            raise

    @property
    def stat(self) -> os.stat_result:
        """The state of the open file."""
        return os.fstat(self.file)

    @property
    def size(self) -> int:
        """The size of the file, in bytes."""
        return self.stat.st_size

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other process appends."""
        fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def read(self) -> Iterator[Record]:
        """The records behind `position`, which moves on. Ends before a record that is not complete.

        Raises:
            ArtifactError: The file is damaged.
        """
        while True:
            payload = self._payload()
            if payload is None:
                return
            record = self._decoded(payload)
            self.position += _HEAD.size + len(payload)
            yield record

    def append(self, record: Record) -> None:
        """Appends a record. Call it in the context of `locked`, after all records were read.

        Raises:
            ArtifactError: The disk is full or refuses to write. The file is then as before.
        """
        self.trim()
        payload = _payload_of(record)
        checksum = 0
        for part in payload:
            checksum = zlib.crc32(part, checksum)
        head = struct.pack("<4sIQ", _ROWS, checksum, sum(part.nbytes for part in payload))
        head += struct.pack("<I", zlib.crc32(head))
        begin = self.position
        try:
            self.position = self._write([memoryview(head), *payload], begin)
            if self.to_disk:
                os.fdatasync(self.file)
        except OSError as error:
            self.position = begin
            os.ftruncate(self.file, begin)
            raise self.refused(error) from error

    def trim(self) -> None:
        """Removes a record that is not complete from the end. Call it in the context of `locked`, after all records were read.

        Raises:
            ArtifactError: The file is shorter than what was read of it.
        """
        size = self.size
        if size > self.position:
            _log.warning("%s: the last record was cut short when its writer died; it is removed", self.path)
            os.ftruncate(self.file, self.position)
        elif size < self.position:
            raise self._error(
                f"the journal was cut to {size} bytes while it was in use; nothing was written", "load the folder again"
            )

    def refused(self, error: OSError) -> ArtifactError:
        """The error for a record that the system refused to write."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return self._error(
            f"the journal cannot be written: {error.strerror}; the rows are neither in the journal nor in the tables",
            f"{'free space on the disk' if full else 'find out why the disk fails'}, and pass the rows again",
        )

    def _write(self, parts: Sequence[memoryview], at: int) -> int:
        """Writes parts one behind the other, in one call of the system if it takes them at once; returns their end."""
        left = [part for part in parts if part.nbytes]
        while left:
            done = os.pwritev(self.file, left, at)
            at += done
            while left and done >= left[0].nbytes:
                done -= left.pop(0).nbytes
            if left and done:
                left[0] = left[0].cast("B")[done:]
        return at

    def _at(self, begin: int, count: int) -> bytes:
        """As many bytes of the file from `begin` as there are, at most `count`."""
        parts, found = [], 0
        while found < count:
            part = os.pread(self.file, min(count - found, 1 << 30), begin + found)
            if not part:
                break
            parts.append(part)
            found += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _checked_header(self, header: bytes) -> int:
        found = self._at(0, 16)
        if len(found) < 16 or found[:8] != _MAGIC:
            raise self._error("the file is not a journal of rows", "pass another path, or remove the file")
        version, length = struct.unpack("<II", found[8:])
        if version != _VERSION or length > _MOST_BASE:
            raise self._error(
                f"the journal is of version {version}, this recfx reads version {_VERSION}",
                "use the version of recfx that wrote it, and save the model with its rows",
            )
        if self._at(0, len(header)) != header:
            base = self._at(16, length).decode("utf-8", "replace")
            raise self._error(
                f"the journal belongs to the saved model {base!r}, not to {self.base!r}",
                "pass the journal of this model, or another path",
            )
        return len(header)

    def _payload(self) -> bytearray | None:
        """The payload of the next record; None if there is no complete one."""
        head = self._at(self.position, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        kind, checksum, length, own = _HEAD.unpack(head)
        if zlib.crc32(head[:16]) != own or kind != _ROWS:
            raise self._damaged("the head of a record has a wrong checksum")
        end = self.position + _HEAD.size + length
        if end > self.size:
            return None
        payload = bytearray(self._at(self.position + _HEAD.size, length))
        if zlib.crc32(payload) != checksum:
            if end == self.size:  # written, but not to its end, when the machine stopped
                return None
            raise self._damaged("a record has a wrong checksum")
        return payload

    def _decoded(self, payload: bytearray) -> Record:
        where = f"{self.path}, byte {self.position}"
        length = int.from_bytes(payload[:4], "little")
        held = fields(strict_json.parse(bytes(payload[4 : 4 + length]), where), where, ("continued", "tables"))
        at = 4 + length
        updates: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for entry in decode(list[dict[str, Any]], held["tables"], where):
            got = fields(entry, where, ("name", "rows", "columns", "dtype"))
            count, columns = decode(int, got["rows"], where), decode(int, got["columns"], where)
            dtype = _DTYPES.get(decode(str, got["dtype"], where))
            if dtype is None or count < 0 or columns < 0:
                raise self._damaged("a record describes no rows")
            ids, at = self._tensor(payload, at, torch.int64, count)
            rows, at = self._tensor(payload, at, dtype, count * columns)
            updates[decode(str, got["name"], where)] = ids, rows.view(count, columns)
        if at != len(payload):
            raise self._damaged("a record is longer than its rows")
        return Record(updates, decode(str, held["continued"], where))

    def _tensor(self, payload: bytearray, at: int, dtype: torch.dtype, count: int) -> tuple[torch.Tensor, int]:
        end = at + count * dtype.itemsize
        if end > len(payload):
            raise self._damaged("a record is shorter than its rows")
        if not count:
            return torch.empty(0, dtype=dtype), end
        return torch.frombuffer(payload[at:end], dtype=dtype), end

    def _damaged(self, what: str) -> ArtifactError:
        return self._error(
            f"the journal is damaged at byte {self.position}: {what}",
            f"restore the file; or cut it with `truncate -s {self.position}`, which loses this update and those after it",
        )

    def _error(self, what: str, hint: str) -> ArtifactError:
        return ArtifactError(what, where=str(self.path), hint=hint)


def _header(base: str) -> bytes:
    text = base.encode()
    if len(text) > _MOST_BASE:
        raise InputError(f"{base[:40]!r}… is too long", where="base", hint=f"pass at most {_MOST_BASE} bytes")
    head = _MAGIC + struct.pack("<II", _VERSION, len(text)) + text
    return head + struct.pack("<I", zlib.crc32(head))


def payload_parts(record: Record) -> tuple[bytes, list[torch.Tensor]]:
    """The payload of a record: its description, and the tensors behind it, contiguous. Tensors without gaps are not copied."""
    tables, parts = [], []
    for name, (ids, rows) in record.updates.items():
        tables.append((name, *rows.shape, _NAMES[rows.dtype]))
        parts += [ids.to(torch.int64).contiguous(), rows.contiguous()]
    return _description(record.continued, tuple(tables)), parts


def _payload_of(record: Record) -> list[memoryview]:
    description, tensors = payload_parts(record)
    return [memoryview(description), *map(_bytes, tensors)]


@lru_cache(64)  # updates of one source have the same sizes
def _description(continued: str, tables: tuple[tuple[str, int, int, str], ...]) -> bytes:
    entries = [dict(zip(("name", "rows", "columns", "dtype"), table, strict=True)) for table in tables]
    text = strict_json.dump({"continued": continued, "tables": entries})
    return len(text).to_bytes(4, "little") + text


def _bytes(tensor: torch.Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    held: Any = tensor.detach().view(torch.uint8).numpy()
    return memoryview(held)
