"""Saved folders: a manifest, a digest of the manifest, and the files that the manifest names with their sizes and SHA-256 digests.

folder/
  NAME.json      "format", "files": {file: {"bytes": ..., "sha256": [...]}}, and whatever else the owner of the format stores
  NAME.sha256    SHA-256 of NAME.json, as `sha256sum` prints it
  ...            the files

A file's digests are those of its blocks of 64 MiB, so that several threads can check a large table; a smaller file has one digest, that
of the whole file. Digests find damage. They are no signature: somebody who changes a file can change its digest too, so whatever is read
is also checked for what it says.

Files are opened relative to the open folder, never through symbolic links, and only when they are regular files. What is checked is what
is used: small files are read once, large ones are mapped once.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.formats.records import decode
from recfx.formats.tensor_files import read_tensors

_BLOCK = 64 << 20
_MOST_FILES = 10_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}){0,3}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN = "copy the whole folder again, or save it again"


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says about a file.

    Attributes:
        bytes: Its size.
        sha256: The digests of its blocks of 64 MiB, in hexadecimal digits.
    """

    bytes: int
    sha256: tuple[str, ...]


def seal(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Writes the manifest `name`.json over all files of a folder, and its digest."""
    files = {
        file.relative_to(folder).as_posix(): asdict(_record(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    data = strict_json.dump({**document, "files": files}, indent=1)
    (folder / f"{name}.json").write_bytes(data)
    (folder / f"{name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {name}.json\n")


def _record(file: Path) -> FileRecord:
    with file.open("rb") as stream:
        digests = [hashlib.sha256(block).hexdigest() for block in iter(lambda: stream.read(_BLOCK), b"")]
    return FileRecord(file.stat().st_size, tuple(digests or [hashlib.sha256().hexdigest()]))


class SealedFolder:
    """A saved folder that is open for reading; a context manager.

    Args:
        path: The folder; it may be a symbolic link, its files may not.
        name: The manifest's name, without ".json".
        formats: The format numbers that can be read.
        kind: What the folder holds, for errors: "saved model".
        check: Whether to compare the contents of tensor files with their digests. Sizes and JSON files are always checked.

    Attributes:
        manifest: The manifest without "files" and "format"; nothing in it has been checked but that it is JSON.
        format: The format.

    Raises:
        ArtifactError: The folder is not there, is damaged or incomplete, has another format, or contains links or special files.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str, formats: Sequence[int], kind: str, *, check: bool = True
    ) -> None:
        self.path, self._name, self._kind = Path(path), name, kind
        try:
            self._folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise self._missing() from error
        except OSError as error:
            raise ArtifactError(f"the folder cannot be opened: {error.strerror}", where=str(self.path)) from error
        try:
            document = self._read_manifest(formats)
            self.format: int = document.pop("format")
            where = f"{self.where(f'{name}.json')}, files"
            self._files: dict[str, FileRecord] = decode(dict[str, FileRecord], document.pop("files", None), where)
            self.manifest: dict[str, Any] = document
            self._held = self._open_files(check)
        except BaseException:
            os.close(self._folder)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._folder)

    @property
    def names(self) -> list[str]:
        """The files that the manifest names."""
        return list(self._files)

    def where(self, file: str) -> str:
        """A file, for errors."""
        return str(self.path / file)

    def json(self, file: str) -> Any:
        """The value of a JSON file.

        Raises:
            ArtifactError: The manifest does not name it, or it is not plain JSON.
        """
        return strict_json.parse(bytes(self._memory(file)), self.where(file))

    def tensors(self, file: str) -> dict[str, torch.Tensor]:
        """The tensors of a safetensors file, mapped into memory.

        Raises:
            ArtifactError: The manifest does not name it, or it is no such file.
        """
        return read_tensors(self._memory(file), self.where(file))

    def _memory(self, file: str) -> mmap.mmap | bytes:
        if file not in self._held:
            raise ArtifactError(
                f"the manifest does not name {file}", where=self.where(f"{self._name}.json"), hint=_AGAIN
            )
        return self._held[file]

    def _missing(self) -> ArtifactError:
        return ArtifactError(
            f"there is no {self._kind} here", where=str(self.path), hint="pass the folder that was saved to"
        )

    def _read_manifest(self, formats: Sequence[int]) -> dict[str, Any]:
        file = f"{self._name}.json"
        try:
            data = self._read(file, strict_json.MOST_BYTES)
        except FileNotFoundError as error:
            raise self._missing() from error
        try:
            sealed = self._read(f"{self._name}.sha256", 1024)
        except FileNotFoundError:
            sealed = None
        if sealed is not None and sealed != f"{hashlib.sha256(data).hexdigest()}  {file}\n".encode():
            raise ArtifactError("the manifest's checksum is wrong: it was damaged", where=self.where(file), hint=_AGAIN)
        document = strict_json.parse(data, self.where(file))
        found = document.get("format") if isinstance(document, dict) else None
        if type(found) is not int or found not in formats:
            known = " and ".join(map(str, formats))
            raise ArtifactError(
                f"the {self._kind} is of format {str(found)[:40]}, this recfx reads format {known}",
                where=self.where(file),
                hint="save it again with this version",
            )
        if sealed is None:
            raise ArtifactError(f"{self._name}.sha256 is missing", where=str(self.path), hint=_AGAIN)
        checked: dict[str, Any] = document
        return checked

    def _open_files(self, check: bool) -> dict[str, mmap.mmap | bytes]:
        if len(self._files) > _MOST_FILES:
            raise ArtifactError(f"the manifest names {len(self._files)} files", where=str(self.path))
        held: dict[str, mmap.mmap | bytes] = {}
        work = []
        for name, record in self._files.items():
            if not _NAME.fullmatch(name) or name in (f"{self._name}.json", f"{self._name}.sha256"):
                raise ArtifactError(f"{name[:200]!r} is not the name of a file of the folder", where=str(self.path))
            _require_digests(record, self.where(name))
            try:
                held[name] = self._map(name, record.bytes)
            except FileNotFoundError as error:
                raise ArtifactError("a file is missing", where=self.where(name), hint=_AGAIN) from error
            if check or not name.endswith(".safetensors"):
                work += [(name, held[name], i) for i in range(len(record.sha256))]
        self._check_digests(work)
        return held

    def _check_digests(self, work: list[tuple[str, mmap.mmap | bytes, int]]) -> None:
        def wrong(item: tuple[str, mmap.mmap | bytes, int]) -> bool:
            name, memory, block = item
            with memoryview(memory) as whole, whole[block * _BLOCK : (block + 1) * _BLOCK] as part:
                return hashlib.sha256(part).hexdigest() != self._files[name].sha256[block]

        if len(work) == 1 or sum(record.bytes for record in self._files.values()) < _BLOCK:
            results = [wrong(item) for item in work]
        else:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1, len(work))) as pool:
                results = list(pool.map(wrong, work))
        for (name, _, _), is_wrong in zip(work, results, strict=True):
            if is_wrong:
                raise ArtifactError("the file's checksum is wrong: it was damaged", where=self.where(name), hint=_AGAIN)

    def _open(self, file: str) -> int:
        """Opens a regular file below the folder; FileNotFoundError when it is not there."""
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
            raise ArtifactError("it is not a regular file", where=self.where(file), hint=_AGAIN)
        return opened

    def _read(self, file: str, most: int) -> bytes:
        with os.fdopen(self._open(file), "rb") as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise ArtifactError(f"the file has more than {most} bytes", where=self.where(file))
        return data

    def _map(self, file: str, size: int) -> mmap.mmap | bytes:
        """A file of a known size: a JSON file's bytes, any other mapped so that writes stay in this process."""
        if file.endswith(".json"):
            data = self._read(file, strict_json.MOST_BYTES)
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
            raise ArtifactError(f"the file has {found} bytes instead of {size}", where=self.where(file), hint=_AGAIN)


def _require_digests(record: FileRecord, where: str) -> None:
    if record.bytes < 0 or len(record.sha256) != max(1, -(-record.bytes // _BLOCK)):
        raise ArtifactError(f"{len(record.sha256)} digests for a file of {record.bytes} bytes", where=where)
    if any(not _DIGEST.fullmatch(digest) for digest in record.sha256):
        raise ArtifactError("a digest is not SHA-256 in hexadecimal digits", where=where)
