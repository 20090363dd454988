"""Files in the user's cache folder: sealed JSON, written whole or not at all.

A file that is damaged, cut short, of another format or of another machine counts as missing. A folder that cannot be written, or that is
full, costs only the repeated measurement, and a warning says so once for each folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recfx.errors import ArtifactError
from recfx.formats.folders import open_sealed_json, sealed_json

#: Whether results are kept in files: True for the user's cache folder, or a folder.
Cache = bool | Path

_told: set[str] = set()


def cache_folder(cache: Cache = True) -> Path | None:
    """The folder of the cache; None without a cache.

    The user's folder is "recfx" in `$XDG_CACHE_HOME`, or in `~/.cache`.
    """
    if cache is False:
        return None
    folder = cache if isinstance(cache, Path) else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "recfx"
    try:
        return folder.expanduser()
    except RuntimeError:  # a user without a home
        return None


def file_name(kind: str, identity: tuple[object, ...]) -> str:
    """The name of the file of a kind for what the identity describes."""
    return f"{kind}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.json"


def read_document(path: Path) -> Any:
    """The document of a sealed file; None if the file is missing, unreadable or damaged."""
    try:
        return open_sealed_json(path.read_bytes(), str(path))
    except (OSError, ArtifactError):
        return None


def write_document(path: Path, document: Any) -> bool:
    """Replaces a file in one step, and returns whether that succeeded. Readers see the old file or the new one."""
    return _guarded(path, lambda: _replace(path, sealed_json(document)))


def update_document(path: Path, change: Callable[[Any], Any]) -> bool:
    """Replaces a file by a function of its present document, and returns whether that succeeded.

    Processes that update one file take turns, so that no change is lost.

    Args:
        path: The file.
        change: The present document, or None -> the new one.
    """

    def update() -> None:
        with _turn(path):
            _replace(path, sealed_json(change(read_document(path))))

    return _guarded(path, update)


def _guarded(path: Path, write: Callable[[], None]) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        folder = str(path.parent)
        if folder not in _told:
            _told.add(folder)
            warnings.warn(
                f"measurements cannot be kept in {folder} ({error.strerror or error}), so they are repeated in each process; "
                "make the folder writable, or set XDG_CACHE_HOME to another one",
                RuntimeWarning,
                stacklevel=4,
            )
        return False
    return True


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Holds the lock of a file. File systems without locks are written without one."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
