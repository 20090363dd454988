"""Folders that may be hostile: files are opened relative to the open folder, never through symbolic links, and only if they are regular.

A file is read or mapped once, and its digests are computed from that memory, so that a later change of the file has no effect.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from recfx.errors import ArtifactError

Memory = mmap.mmap | bytes
_Check = Callable[[memoryview], bool]

AGAIN = "copy the whole folder again, or save it again"
_BLOCK = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}){0,3}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class FileRecord:
    """The entry of a file in a manifest.

    Attributes:
        bytes: Its size.
        sha256: The digests of its blocks of 64 MiB, in hexadecimal digits, so that several threads can check a large file. A smaller file
            has one digest, that of the whole file; an empty file has the digest of no bytes.
    """

    bytes: int
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class CrcRecord:
    """The entry of a file in a manifest of an old format.

    Attributes:
        bytes: Its size.
        crc32: The CRC-32 of its contents.
    """

    bytes: int
    crc32: int


Record = FileRecord | CrcRecord


def record_of(file: Path) -> FileRecord:
    """Size and digests of a file."""
    with file.open("rb") as stream:
        digests = [hashlib.sha256(block).hexdigest() for block in iter(lambda: stream.read(_BLOCK), b"")]
    return FileRecord(file.stat().st_size, tuple(digests or [hashlib.sha256().hexdigest()]))


class OpenFolder:
    """A folder that is open for reading; a context manager.

    Args:
        path: The folder. It may be a symbolic link; its files must not be.
        kind: What the folder holds, for errors: "saved model".

    Raises:
        ArtifactError: The folder does not exist.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.path, self.kind = Path(path), kind
        try:
            self._folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise self.missing() from error
        except OSError as error:
            raise ArtifactError(f"the folder cannot be opened: {error.strerror}", where=str(self.path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the folder. Contents that were read or mapped stay valid."""
        os.close(self._folder)

    def missing(self) -> ArtifactError:
        """The error for a folder that does not exist."""
        return ArtifactError(
            f"there is no {self.kind} here", where=str(self.path), hint="pass the folder that was saved to"
        )

    def where(self, file: str) -> str:
        """The path of a file, for errors."""
        return str(self.path / file)

    def read(self, file: str, most: int) -> bytes:
        """The contents of a small file.

        Raises:
            FileNotFoundError: It does not exist.
            ArtifactError: It is not a regular file, or larger than `most` bytes.
        """
        with os.fdopen(self._open(file), "rb") as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise ArtifactError(f"the file has more than {most} bytes", where=self.where(file))
        return data

    def memory(self, records: Mapping[str, Record], most: int, *, check: bool = True) -> dict[str, Memory]:
        """The contents of files whose sizes and digests are known. JSON files are read; others are mapped privately.

        Args:
            records: File -> its size and digests.
            most: The largest size of a JSON file.
            check: Whether to compare the digests of tensor files. Those of other files are always compared.

        Raises:
            ArtifactError: A file is missing, is not regular, or has another size or digest.
        """
        held: dict[str, Memory] = {}
        work = []
        for name, record in records.items():
            _require_name(name, record, self.where(name))
            try:
                held[name] = self._memory(name, record.bytes, most)
            except FileNotFoundError as error:
                raise ArtifactError("a file is missing", where=self.where(name), hint=AGAIN) from error
            if check or not name.endswith(".safetensors"):
                work += [(name, held[name], check) for check in _checks(record)]
        self._check_digests(work)
        return held

    def _check_digests(self, work: list[tuple[str, Memory, _Check]]) -> None:
        def wrong(item: tuple[str, Memory, _Check]) -> bool:
            _, memory, holds = item
            with memoryview(memory) as whole:
                return not holds(whole)

        if sum(len(memory) for _, memory, _ in work) < _BLOCK:
            results = [wrong(item) for item in work]
        else:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1, len(work))) as pool:
                results = list(pool.map(wrong, work))
        for (name, *_), is_wrong in zip(work, results, strict=True):
            if is_wrong:
                raise ArtifactError("the file's checksum is wrong: it was damaged", where=self.where(name), hint=AGAIN)

    def _open(self, file: str) -> int:
        """Opens a regular file below the folder; FileNotFoundError if it does not exist."""
        *parents, last = file.split("/")
        folder = os.dup(self._folder)
        try:
            for name in parents:
                inner = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            opened = os.open(last, _FLAGS, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ArtifactError(
                f"the file cannot be opened: {error.strerror}",
                where=self.where(file),
                hint="saved folders hold regular files only, no links and no devices",
            ) from error
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise ArtifactError("the file is not a regular file", where=self.where(file), hint=AGAIN)
        return opened

    def _memory(self, file: str, size: int, most: int) -> Memory:
        if file.endswith(".json"):
            data = self.read(file, most)
            self._require_size(file, len(data), size)
            return data
        opened = self._open(file)
        try:
            self._require_size(file, os.fstat(opened).st_size, size)
            return mmap.mmap(opened, size, access=mmap.ACCESS_COPY) if size else b""
        except (OSError, ValueError, OverflowError) as error:
            raise ArtifactError(f"the file cannot be mapped: {error}", where=self.where(file)) from error
        finally:
            os.close(opened)

    def _require_size(self, file: str, found: int, size: int) -> None:
        if found != size:
            raise ArtifactError(f"the file has {found} bytes instead of {size}", where=self.where(file), hint=AGAIN)


def _checks(record: Record) -> list[_Check]:
    """Checks of a file's contents against its record, in parts for several threads."""
    if isinstance(record, CrcRecord):
        return [lambda whole: zlib.crc32(whole) == record.crc32]

    def part(index: int, digest: str) -> _Check:
        return lambda whole: hashlib.sha256(whole[index * _BLOCK : (index + 1) * _BLOCK]).hexdigest() == digest

    return [part(index, digest) for index, digest in enumerate(record.sha256)]


def _require_name(name: str, record: Record, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"{name[:200]!r} is not the name of a file of the folder", where=where)
    if isinstance(record, CrcRecord):
        if record.bytes < 0:
            raise ArtifactError(f"the manifest gives the file {record.bytes} bytes", where=where)
        return
    if record.bytes < 0 or len(record.sha256) != max(1, -(-record.bytes // _BLOCK)):
        raise ArtifactError(
            f"the manifest gives {len(record.sha256)} digests for a file of {record.bytes} bytes", where=where
        )
    if any(not _DIGEST.fullmatch(digest) for digest in record.sha256):
        raise ArtifactError("a digest is not SHA-256 in hexadecimal digits", where=where)
