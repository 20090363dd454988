"""Folders of files that are written whole or not at all, and checked when read."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from recfx.errors import ArtifactError


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write into a fresh folder, which then takes the place of what was there; a crash leaves the old one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(staging)
        _replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def checksums(folder: Path) -> dict[str, dict[str, int]]:
    """Size and checksum of every file below a folder."""
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "crc32": crc32(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def check_file(file: Path, expected: dict[str, int], thorough: bool) -> None:
    """Compares a file with its `checksums`; the contents of any but JSON files only when thorough.

    Raises:
        ArtifactError: It is missing, cut short or damaged.
    """
    if not file.is_file():
        raise ArtifactError("a file of the artifact is missing", where=str(file), hint="copy the whole folder")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise ArtifactError(f"the file has {size} bytes instead of {expected['bytes']}", where=str(file))
    if (thorough or file.suffix == ".json") and crc32(file) != expected["crc32"]:
        raise ArtifactError("the file's checksum is wrong: it was damaged", where=str(file))


def crc32(file: Path) -> int:
    """The CRC-32 of a file."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _replace(staging: Path, folder: Path) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / "artifact")
    staging.rename(folder)
    shutil.rmtree(old)
