"""Saved folders: a manifest, a digest of the manifest, and the files that the manifest names with their sizes and SHA-256 digests.

folder/
  NAME.json      "format", "files": {file: {"bytes": ..., "sha256": [...]}}, and the other entries of the format
  NAME.sha256    SHA-256 of NAME.json, as `sha256sum` prints it
  ...            the files

Digests detect damage. They are not signatures: an attacker who changes a file can also change its digest. Readers therefore also check the
contents of every file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.formats.open_folder import AGAIN, CrcRecord, FileRecord, Memory, OpenFolder, Record, record_of
from recfx.formats.records import decode, fields
from recfx.formats.tensor_files import read_tensors

_MOST_FILES = 10_000


def seal(folder: Path, name: str, document: dict[str, Any], without: Collection[str] = ()) -> None:
    """Writes the manifest `name`.json over all files of a folder, and its digest.

    Args:
        folder: The folder.
        name: The name of the manifest.
        document: Its other entries.
        without: Folders in it that have manifests of their own.
    """
    files = {
        file.relative_to(folder).as_posix(): asdict(record_of(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.relative_to(folder).parts[0] not in without
    }
    data = strict_json.dump({**document, "files": files}, indent=1)
    (folder / f"{name}.json").write_bytes(data)
    (folder / f"{name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {name}.json\n")


def digest_of_manifest(data: bytes) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a manifest, which names the digests of all files of its folder."""
    return hashlib.sha256(data).hexdigest()[:12]


def sealed_json(document: Any) -> bytes:
    """A document as JSON that holds its own digest, for files that stand alone."""
    content = strict_json.dump(document)
    return strict_json.dump({"sha256": hashlib.sha256(content).hexdigest(), "content": document})


def open_sealed_json(data: bytes, where: str) -> Any:
    """The document that `sealed_json` was given.

    Raises:
        ArtifactError: The file is damaged.
    """
    held = fields(strict_json.parse(data, where), where, ("sha256", "content"))
    if held["sha256"] != hashlib.sha256(strict_json.dump(held["content"])).hexdigest():
        raise ArtifactError("the file's checksum is wrong: it was damaged", where=where)
    return held["content"]


class SealedFolder(OpenFolder):
    """A saved folder that is open for reading; a context manager.

    Args:
        path: The folder. It may be a symbolic link; its files must not be.
        name: The manifest's name, without ".json".
        formats: The format numbers that can be read.
        kind: What the folder holds, for errors: "saved model".
        check: Whether to compare the contents of tensor files with their digests. Sizes and JSON files are always checked.
        unsealed: The formats among `formats` whose manifest has no digest, and a CRC-32 of each file in place of SHA-256.

    Attributes:
        manifest: The manifest without "files" and "format". It is valid JSON; its values are not checked.
        format: The format.
        digest: The first 12 hexadecimal digits of the manifest's SHA-256; the manifest names the digests of all files.

    Raises:
        ArtifactError: The folder does not exist, is damaged or incomplete, has another format, or contains links or special files.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        formats: Sequence[int],
        kind: str,
        *,
        check: bool = True,
        unsealed: Sequence[int] = (),
    ) -> None:
        super().__init__(path, kind)
        self._name = name
        try:
            document = self._read_manifest(formats, unsealed)
            self.format: int = document.pop("format")
            where = f"{self.where(f'{name}.json')}, files"
            kind_of_record = CrcRecord if self.format in unsealed else FileRecord
            files: dict[str, Record] = decode(dict[str, kind_of_record], document.pop("files", None), where)  # type: ignore[valid-type]
            self.manifest: dict[str, Any] = document
            if len(files) > _MOST_FILES or not files.keys().isdisjoint((f"{name}.json", f"{name}.sha256")):
                raise ArtifactError(f"the manifest names itself, or more than {_MOST_FILES} files", where=where)
            self._held = self.memory(files, strict_json.MOST_BYTES, check=check)
        except BaseException:
            self.close()
            raise

    def json(self, file: str) -> Any:
        """The value of a JSON file.

        Raises:
            ArtifactError: The manifest does not name it, or it is not plain JSON.
        """
        return strict_json.parse(bytes(self._named(file)), self.where(file))

    def data(self, file: str) -> memoryview:
        """The bytes of any file, mapped into memory.

        Raises:
            ArtifactError: The manifest does not name it.
        """
        return memoryview(self._named(file))

    def tensors(self, file: str) -> dict[str, torch.Tensor]:
        """The tensors of a safetensors file, mapped into memory.

        Raises:
            ArtifactError: The manifest does not name it, or it is not a safetensors file.
        """
        return read_tensors(self._named(file), self.where(file))

    def _named(self, file: str) -> Memory:
        if file not in self._held:
            raise ArtifactError(
                f"the manifest does not name {file}", where=self.where(f"{self._name}.json"), hint=AGAIN
            )
        return self._held[file]

    def _read_manifest(self, formats: Sequence[int], unsealed: Sequence[int]) -> dict[str, Any]:
        file = f"{self._name}.json"
        try:
            data = self.read(file, strict_json.MOST_BYTES)
        except FileNotFoundError as error:
            raise self.missing() from error
        try:
            sealed = self.read(f"{self._name}.sha256", 1024)
        except FileNotFoundError:
            sealed = None
        if sealed is not None and sealed != f"{hashlib.sha256(data).hexdigest()}  {file}\n".encode():
            raise ArtifactError("the manifest's checksum is wrong: it was damaged", where=self.where(file), hint=AGAIN)
        self.digest = digest_of_manifest(data)
        document = strict_json.parse(data, self.where(file))
        found = document.get("format") if isinstance(document, dict) else None
        if type(found) is not int or found not in formats:
            *others, last = map(str, formats)
            known = f"{', '.join(others)} and {last}" if others else last
            raise ArtifactError(
                f"the {self.kind} is of format {str(found)[:40]}, this recfx reads format {known}",
                where=self.where(file),
                hint="save it again with this version",
            )
        if sealed is None and found not in unsealed:
            raise ArtifactError(f"{self._name}.sha256 is missing", where=str(self.path), hint=AGAIN)
        checked: dict[str, Any] = document
        return checked
