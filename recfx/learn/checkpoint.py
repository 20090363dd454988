"""Checkpoints: tensors as safetensors, everything else as JSON, no pickle.

folder/
  checkpoint.json                     the names and digests of its files, the plain values, and a digest of both; written last
  state-<steps>-<digest>.safetensors  model, optimiser and generators
  best-<steps>-<digest>.safetensors   the best model so far
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.formats.folders import open_sealed_json, sealed_json
from recfx.formats.open_folder import FileRecord, OpenFolder, record_of
from recfx.formats.records import decode
from recfx.formats.tensor_files import read_tensors

FORMAT = 2
_NAME = "checkpoint.json"


@dataclass(frozen=True)
class _Part(FileRecord):
    """A file of tensors."""

    name: str


@dataclass(frozen=True)
class _Document:
    format: int
    torch: str
    files: dict[str, _Part]
    values: Any


def save_checkpoint(folder: str | PathLike[str], steps: int, parts: dict[str, dict[str, Tensor]], values: Any) -> None:
    """Writes a checkpoint; a crash in the middle leaves the earlier checkpoint intact.

    Args:
        folder: Created if it does not exist.
        steps: Part of the files' names. The names hold digests as well, so that a file is never overwritten by other
            content.
        parts: Part -> name -> tensor.
        values: Values that JSON can hold; floats are kept exactly.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, tensors in parts.items():
        partial = _partial(place / f"{part}-{steps}.safetensors")
        partial.touch()  # created with the permissions that the umask allows
        mode = partial.stat().st_mode & 0o777
        save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, partial)
        partial.chmod(mode)
        record = record_of(partial)
        file = place / f"{part}-{steps}-{record.sha256[0][:16]}.safetensors"
        os.replace(partial, file)
        files[part] = _Part(record.bytes, record.sha256, file.name)
    document = asdict(_Document(FORMAT, torch.__version__, files, values))
    _partial(place / _NAME).write_bytes(sealed_json(document))
    os.replace(_partial(place / _NAME), place / _NAME)
    kept = {entry.name for entry in files.values()}
    for file in place.glob("*-*.safetensors*"):
        if file.name not in kept:
            file.unlink()


def has_checkpoint(folder: str | PathLike[str]) -> bool:
    """Whether the folder holds a checkpoint."""
    return (Path(folder) / _NAME).is_file()


def load_checkpoint(folder: str | PathLike[str]) -> tuple[dict[str, dict[str, Tensor]], Any]:
    """Reads a checkpoint of `save_checkpoint`: the parts and the values.

    Raises:
        ArtifactError: The checkpoint does not exist, is damaged, truncated, or of another format.
    """
    with OpenFolder(folder, "checkpoint") as opened:
        try:
            data = opened.read(_NAME, strict_json.MOST_BYTES)
        except FileNotFoundError as error:
            raise opened.missing() from error
        where = opened.where(_NAME)
        plain = strict_json.parse(data, where)
        if isinstance(plain, dict) and plain.get("format") == 1:
            raise ArtifactError(
                f"the checkpoint is of format 1, this recfx reads format {FORMAT}",
                where=where,
                hint="train into another folder",
            )
        document: _Document = decode(_Document, open_sealed_json(data, where), where)
        if document.format != FORMAT:
            raise ArtifactError(
                f"the checkpoint is of format {document.format}, this recfx reads format {FORMAT}",
                where=where,
                hint="train into another folder",
            )
        memory = opened.memory({part.name: FileRecord(part.bytes, part.sha256) for part in document.files.values()}, 0)
        # The tensors are copied, because training writes to them and the next checkpoint removes the files.
        parts = {
            part: {
                name: tensor.clone()
                for name, tensor in read_tensors(memory[entry.name], opened.where(entry.name)).items()
            }
            for part, entry in document.files.items()
        }
    return parts, strict_json.restored(document.values)


def _partial(file: Path) -> Path:
    return file.with_name(file.name + ".partial")
