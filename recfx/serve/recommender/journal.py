"""Changes of items and tables that outlive the process: each is appended to a journal beside the saved folder before it becomes visible."""

from __future__ import annotations

import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Protocol

from recfx.errors import ArtifactError, InputError
from recfx.formats.journal_chain import JournalChain
from recfx.formats.row_journal import Record, Sync
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


class ChangeJournal(JournalChain):
    """The journal of a recommender. All methods but `behind` and `belongs_to` are called with the lock of changes.

    Args:
        owner: The recommender.
        folder: Its saved folder.
        sync: See `RowJournal`.

    Raises:
        ArtifactError: See `RowJournal`.
    """

    def __init__(self, owner: Changed, folder: Path, sync: Sync) -> None:
        self._owner = owner
        super().__init__(folder, files.digest_of(folder), sync, self._write_record)

    def belongs_to(self, path: str | PathLike[str]) -> bool:
        """Whether it is the journal of a folder."""
        return Path(os.path.realpath(path)) == self.folder

    def write(self, change: Change) -> int:
        """Appends a change and makes it visible; returns the number of changes.

        Raises:
            ArtifactError: The journal cannot be written. The change is then not visible either.
            InputError: See `Recommender.update`.
        """
        with self.locked():
            self._owner.write(change, lambda checked: self.append(record_of(checked)))
            return self._owner.version

    def save(self) -> str:
        """Saves the recommender with all changes to its folder, and begins a new journal; returns the digest of the folder.

        Raises:
            ArtifactError: The folder or the journal cannot be written.
        """
        with self.locked():
            return files.save(self._owner.content(), self.folder, sealed=self.continued)

    def _write_record(self, record: Record, where: str) -> None:
        try:
            self._owner.write(change_from(record, self._owner.items.shapes, where))
        except InputError as error:
            raise ArtifactError(
                f"the journal holds a change that does not fit the items: {error.what}",
                where=where,
                hint="load the folder that the journal belongs to",
            ) from error
