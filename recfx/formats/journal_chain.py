"""The journals of one saved folder, each of which continues the one before.

The journal of the folder `model.recfx` is `model.recfx.rows-DIGEST`, with the digest of the folder's manifest. Several processes may open
it: each appends its records under the lock of the file and first applies those of the others, so that all apply the same in the same order.

Saving to the folder again begins a new journal. The order of the steps keeps every crash harmless: the new journal is created, the old one
ends with a record that names it, and the folder is exchanged. Until then, a process that starts loads the old folder, reads the old
journal, and goes on with the new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recfx.errors import ArtifactError
from recfx.formats.row_journal import Record, RowJournal, Sync


class JournalChain:
    """The present journal of a folder.

    One thread at a time may use it, except for `behind`.

    Args:
        folder: The saved folder.
        digest: The digest of its manifest.
        sync: See `RowJournal`.
        apply: Applies a record of another process, or of an earlier one. Its second argument is the path of the journal, for errors.

    Attributes:
        folder: The folder, without symbolic links.

    Raises:
        ArtifactError: See `RowJournal`.
    """

    def __init__(self, folder: Path, digest: str, sync: Sync, apply: Callable[[Record, str], None]) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._sync, self._apply = sync, apply
        self._applied = 0
        self._journal = self._opened(digest)

    def _opened(self, digest: str) -> RowJournal:
        return RowJournal(self.folder.with_name(f"{self.folder.name}.rows-{digest}"), digest, self._sync)

    @property
    def path(self) -> Path:
        """The file."""
        return self._journal.path

    @property
    def digest(self) -> str:
        """The digest of the folder that the file belongs to."""
        return self._journal.base

    @property
    def behind(self) -> bool:
        """Whether the file holds more than this process has read."""
        return self._journal.size > self._journal.position

    def close(self) -> None:
        """Closes the file."""
        self._journal.close()

    def follow(self) -> int:
        """Applies the records that were not applied yet; returns how many there were.

        Raises:
            ArtifactError: The file is damaged, or a record does not fit.
        """
        before = self._applied
        while self._read():
            pass
        return self._applied - before

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which all records are applied and no other process appends one.

        Raises:
            ArtifactError: The file is damaged.
        """
        while True:
            with self._journal.locked():
                if self._read():
                    continue
                yield
                return

    def append(self, record: Record) -> None:
        """Appends a record. Call it in the context of `locked`.

        Raises:
            ArtifactError: The file was removed or replaced, or cannot be written. It is then as before.
        """
        self.require_whole()
        self._journal.append(record)

    def require_whole(self) -> None:
        """Checks that a record may be appended, and removes one that is not complete. Call it in the context of `locked`.

        Raises:
            ArtifactError: The file was removed, replaced or cut.
        """
        self._require_present()
        self._journal.trim()

    def continued(self, digest: str) -> None:
        """Begins the journal of a folder that is about to take the place of the present one. Call it in the context of `locked`."""
        old = self._journal
        if digest == old.base:
            return
        new = self._opened(digest)
        old.append(Record({}, continued=digest))
        self._journal = new
        for path in self.folder.parent.glob(f"{self.folder.name}.rows-*"):
            if path not in (old.path, new.path):  # the old one is read by processes that are still behind
                path.unlink(missing_ok=True)

    def _read(self) -> bool:
        """Applies the records that were not applied yet; whether another journal continues this one, which is then open."""
        for record in self._journal.read():
            if record.continued:
                self._journal = self._opened(record.continued)
                return True  # the old one is closed when its last user, who may hold its lock, is done with it
            self._apply(record, str(self._journal.path))
            self._applied += 1
        return False

    def _require_present(self) -> None:
        try:
            same = os.path.samestat(os.stat(self._journal.path), self._journal.stat)
        except FileNotFoundError:
            same = False
        if not same:
            raise ArtifactError(
                "the journal was removed or replaced while it was in use; nothing was written",
                where=str(self._journal.path),
                hint="put it back, or load the folder again",
            )
