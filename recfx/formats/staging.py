"""Folders that are written whole or not at all.

A writer fills a hidden folder next to the final one, `.NAME.recfx-<16 hex digits>`, and then exchanges the two in one step. It holds a
lock on the hidden folder until it ends. A hidden folder without a lock belongs to a writer that was killed; the next writer removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replaces `folder` by a new one that `fill` writes. After a crash the old folder is still there.

    Folders get the permissions 0777 and files 0666, both less the umask. The permissions that `fill` gave them are replaced.

    Args:
        folder: The folder to write. If it is a symbolic link, the folder that it points to is replaced.
        fill: Writes the files.
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_stale(folder)
    with _staged(folder) as staging:
        fill(staging)
        _set_permissions(staging)
        _replace(staging, folder)


def clear_stale(folder: Path) -> None:
    """Removes the hidden folders that killed writers of `folder` left; those of living writers stay."""
    hidden = re.compile(rf"\.{re.escape(folder.name)}\.recfx-(old-)?[0-9a-f]{{16}}")
    for entry in list(os.scandir(folder.parent)):
        match = hidden.fullmatch(entry.name)
        if not match or not entry.is_dir(follow_symlinks=False):
            continue
        if match[1] and not folder.exists():
            continue  # a writer died between two renames: this is the only copy
        try:
            lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # its writer removed it
        try:
            if _lock(lock) is True:
                shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A new locked folder next to `folder`. At the end the folder at its path is removed."""
    path, lock = _new_locked(folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _new_locked(folder: Path) -> tuple[Path, int]:
    while True:
        path = _hidden(folder)
        path.mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another writer took it for a stale one before it was locked
        if _lock(lock) is not False and path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            return path, lock
        os.close(lock)


def _hidden(folder: Path, infix: str = "") -> Path:
    return folder.with_name(f".{folder.name}.recfx-{infix}{secrets.token_hex(8)}")


def _lock(folder: int) -> bool | None:
    """Locks an open folder. Returns True, False if another process holds the lock, or None if folders cannot be locked here."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _set_permissions(folder: Path) -> None:
    """Gives all files below a folder the permissions that the folder itself got, without the right to execute."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _replace(staging: Path, folder: Path) -> None:
    """Moves the staging folder to `folder`. An earlier folder there moves to `staging`, or is removed."""
    while True:
        problem = _exchange(staging, folder)
        if problem == 0:
            return
        if problem in _UNSUPPORTED and folder.exists():
            _replace_in_two_steps(staging, folder)
            return
        if problem not in (errno.ENOENT, *_UNSUPPORTED):
            raise OSError(problem, os.strerror(problem), str(folder))
        try:
            staging.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # for these two, another writer was faster: exchange with its folder


def _replace_in_two_steps(staging: Path, folder: Path) -> None:
    old = _hidden(folder, "old-")
    folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> int:
    """Exchanges two folders in one step; returns 0 or the error number."""
    rename = _renameat2()
    if rename is None:
        return errno.ENOSYS
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return 0 if done == 0 else ctypes.get_errno()


@lru_cache
def _renameat2() -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        function.restype = ctypes.c_int
    return function
