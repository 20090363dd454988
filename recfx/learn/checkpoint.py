"""Checkpoints: tensors as safetensors, everything else as JSON, no pickle.

folder/
  checkpoint.json                     which files belong to it, their checksums, and the plain values; written last
  state-<steps>-<crc32>.safetensors   model, optimiser and generators
  best-<steps>-<crc32>.safetensors    the best model so far
"""

from __future__ import annotations

import json
import os
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recfx.errors import ArtifactError

FORMAT = 1
_NAME = "checkpoint.json"


def save_checkpoint(folder: str | PathLike[str], steps: int, parts: dict[str, dict[str, Tensor]], values: Any) -> None:
    """Writes a checkpoint; a crash in the middle leaves the one before.

    Args:
        folder: Made where it does not exist.
        steps: For the files' names, which hold checksums too, so that none is ever overwritten by another content.
        parts: Tensors by name, by part.
        values: What JSON can hold, floats exactly.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, tensors in parts.items():
        partial = _partial(place / f"{part}-{steps}.safetensors")
        save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, partial)
        checksum = _crc32(partial)
        file = place / f"{part}-{steps}-{checksum:08x}.safetensors"
        os.replace(partial, file)
        files[part] = {"name": file.name, "bytes": file.stat().st_size, "crc32": checksum}
    document = {"format": FORMAT, "torch": torch.__version__, "files": files, "values": values}
    _partial(place / _NAME).write_text(json.dumps(document) + "\n")
    os.replace(_partial(place / _NAME), place / _NAME)
    kept = {entry["name"] for entry in files.values()}
    for file in place.glob("*-*.safetensors*"):
        if file.name not in kept:
            file.unlink()


def has_checkpoint(folder: str | PathLike[str]) -> bool:
    """Whether a checkpoint was written there."""
    return (Path(folder) / _NAME).is_file()


def load_checkpoint(folder: str | PathLike[str]) -> tuple[dict[str, dict[str, Tensor]], Any]:
    """Reads what `save_checkpoint` wrote: the parts and the values.

    Raises:
        ArtifactError: There is none, or it is damaged, cut short, or of another format.
    """
    place = Path(folder)
    try:
        document = json.loads((place / _NAME).read_text())
    except FileNotFoundError as error:
        raise ArtifactError("there is no checkpoint here", where=str(place)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the checkpoint is damaged: {error}", where=str(place / _NAME)) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"no checkpoint of format {FORMAT}", where=str(place / _NAME), hint="start anew elsewhere")
    return {part: _read(place / entry["name"], entry) for part, entry in document["files"].items()}, document["values"]


def _read(file: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    if not file.is_file():
        raise ArtifactError("a file of the checkpoint is missing", where=str(file), hint="copy the whole folder")
    if file.stat().st_size != entry["bytes"] or _crc32(file) != entry["crc32"]:
        raise ArtifactError("the file's size or checksum is wrong: it was damaged", where=str(file))
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ArtifactError(f"the tensors cannot be read: {error}", where=str(file)) from error


def _partial(file: Path) -> Path:
    return file.with_name(file.name + ".partial")


def _crc32(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
