"""Compiled packages on disk, by content and machine: libraries of Inductor, engines of TensorRT.

A package holds code that is loaded into the process, so it is read only from a folder of the user that nobody else can write to,
and only if its digest is the recorded one. Any fault of the folder or of a file leads to another compilation, never to an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE, _RECORD = "package.pt2", "record.json"


def default_folder(backend: str) -> Path:
    """The folder of a backend's compiled packages, in recfx's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "recfx" / backend


def stored(folder: Path, key: str) -> tuple[Path, dict[str, Any]] | None:
    """The package of a key and its record; None when it is absent, damaged, or unsafe to load."""
    place = folder / key
    try:
        if not _is_private(folder) or not _is_private(place):
            return None
        record = json.loads((place / _RECORD).read_text())
        if not isinstance(record, dict) or record.get("sha256") != _digest(place / _PACKAGE):
            return None
    except (OSError, ValueError):
        return None
    return place / _PACKAGE, record


def store(folder: Path, key: str, package: Path, record: Mapping[str, Any]) -> Path | None:
    """Moves a package into the cache; None when the folder cannot be written.

    Another process may store the same key at the same time; the first one's package stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_private(folder):
            return None
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    except OSError:
        return None
    try:
        shutil.copyfile(package, made / _PACKAGE)
        (made / _RECORD).write_text(json.dumps({**record, "sha256": _digest(made / _PACKAGE)}))
        return _moved(made, folder / key)
    except OSError:
        return None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _moved(made: Path, place: Path) -> Path | None:
    """Gives a finished folder its name. A damaged folder of that name is removed first."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            made.rename(place)
            return place / _PACKAGE
        found = stored(place.parent, place.name)
        if found is not None:
            return found[0]
        shutil.rmtree(place, ignore_errors=True)
    return None


def _is_private(folder: Path) -> bool:
    """Whether the folder belongs to this user and nobody else can write to it."""
    state = folder.stat()
    return state.st_uid == os.getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
