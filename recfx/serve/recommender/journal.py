"""Changes of items and tables that outlive the process: each is appended to a journal beside the saved folder before it becomes visible.

The journal of the folder `shop` is `shop.rows-DIGEST`, with the digest of the folder's manifest. Processes that load the folder and open
the journal apply the same changes in the same order. When the folder is saved again, the old journal ends with a record that names the
new one, as that of a saved model does (`recfx/driver/update_journal.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Protocol

from recfx.errors import ArtifactError, InputError
from recfx.formats.row_journal import Record, RowJournal, Sync
from recfx.serve.recommender import files
from recfx.serve.recommender.catalogue import Catalogue
from recfx.serve.recommender.changes import Change, change_from, record_of


class Changed(Protocol):
    """What a journal needs of a recommender."""

    @property
    def items(self) -> Catalogue:
        """The present items."""
        ...

    @property
    def version(self) -> int:
        """The number of changes."""
        ...

    def write(self, change: Change, commit: Callable[[Change], None] | None = None) -> None:
        """Makes a change visible after it was committed."""
        ...

    def content(self) -> files.Content:
        """The present content."""
        ...


class ChangeJournal:
    """The journal of a recommender. All methods but `behind` and `belongs_to` are called with the lock of changes.

    Args:
        owner: The recommender.
        folder: Its saved folder.
        sync: See `RowJournal`.

    Raises:
        ArtifactError: See `RowJournal`.
    """

    def __init__(self, owner: Changed, folder: Path, sync: Sync) -> None:
        self._owner, self._sync = owner, sync
        self._folder = Path(os.path.realpath(folder))
        self._journal = self._opened(files.digest_of(folder))

    def _opened(self, digest: str) -> RowJournal:
        return RowJournal(self._folder.with_name(f"{self._folder.name}.rows-{digest}"), digest, self._sync)

    @property
    def behind(self) -> bool:
        """Whether the journal holds more than this process has read."""
        return self._journal.size > self._journal.position

    def belongs_to(self, path: str | PathLike[str]) -> bool:
        """Whether it is the journal of a folder."""
        return Path(os.path.realpath(path)) == self._folder

    def follow(self) -> int:
        """Applies the changes of other processes; returns how many there were.

        Raises:
            ArtifactError: The journal is damaged, or its changes do not fit the items.
            TargetError: See `Recommender.update`.
        """
        before = self._owner.version
        while self._read():
            pass
        return self._owner.version - before

    def write(self, change: Change) -> int:
        """Appends a change and makes it visible; returns the number of changes.

        Raises:
            ArtifactError: The journal cannot be written. The change is then not visible either.
            InputError: See `Recommender.update`.
        """
        while True:
            with self._journal.locked():
                if self._read():
                    continue
                self._require_present()
                self._owner.write(change, lambda checked: self._journal.append(record_of(checked)))
                return self._owner.version

    def save(self) -> str:
        """Saves the recommender with all changes to its folder, and begins a new journal; returns the digest of the folder.

        Raises:
            ArtifactError: The folder or the journal cannot be written.
        """
        while True:
            with self._journal.locked():
                if self._read():
                    continue
                return files.save(self._owner.content(), self._folder, sealed=self._continue)

    def _continue(self, digest: str) -> None:
        """Begins the journal of a folder that is about to take the place of the present one."""
        old = self._journal
        if digest == old.base:
            return
        new = self._opened(digest)
        old.append(Record({}, continued=digest))
        self._journal = new
        for path in self._folder.parent.glob(f"{self._folder.name}.rows-*"):
            if path not in (old.path, new.path):  # the old one is read by processes that are still behind
                path.unlink(missing_ok=True)

    def _read(self) -> bool:
        """Applies the changes that were not read yet; whether another journal continues this one, which is then open."""
        for record in self._journal.read():
            if record.continued:
                self._journal = self._opened(record.continued)
                return True
            where = str(self._journal.path)
            try:
                self._owner.write(change_from(record, self._owner.items.shapes, where))
            except InputError as error:
                raise ArtifactError(
                    f"the journal holds a change that does not fit the items: {error.what}",
                    where=where,
                    hint="load the folder that the journal belongs to",
                ) from error
        return False

    def _require_present(self) -> None:
        """Checks that the file is still at its path.

        Raises:
            ArtifactError: It was removed or replaced.
        """
        try:
            same = os.path.samestat(os.stat(self._journal.path), self._journal.stat)
        except FileNotFoundError:
            same = False
        if not same:
            raise ArtifactError(
                "the journal was removed or replaced while it was in use; the change was not made",
                where=str(self._journal.path),
                hint="put it back, or load the folder again",
            )
