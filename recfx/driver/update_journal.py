"""Updates of tables that outlive the process: each is appended to a journal beside the saved model before it becomes visible.

The journal of the saved model `model.recfx` is `model.recfx.rows-DIGEST`, with the digest of the model's manifest. Several processes may
load the model and open the journal: each appends its updates under the lock of the file and follows those of the others, so that all apply
the same updates in the same order.

Saving the model to its folder again begins a new journal. The order of the steps keeps every crash harmless: the new journal is created,
the old one ends with a record that names it, and the folder is exchanged. Until then, a process that starts loads the old folder, reads
the old journal, and goes on with the new one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from recfx.driver import artifact
from recfx.driver.live_tables import LiveTables
from recfx.driver.row_updates import NewRows
from recfx.errors import ArtifactError, InputError
from recfx.formats.row_journal import Record, RowJournal, Sync

#: Dtypes of rows that are kept as they are; rows of others become float32.
_KEPT = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def journal_of(folder: Path, digest: str) -> Path:
    """The path of the journal of a saved model."""
    return folder.with_name(f"{folder.name}.rows-{digest}")


class UpdateJournal:
    """The journal of a compiled model.

    All methods but `behind` are called with the lock of `live`.

    Args:
        live: The tables of the model.
        folder: The folder of the saved model.
        digest: The digest of its manifest.
        sync: See `RowJournal`.

    Raises:
        ArtifactError: See `RowJournal`.
    """

    def __init__(self, live: LiveTables, folder: Path, digest: str, sync: Sync) -> None:
        self._live, self._sync = live, sync
        self.folder = Path(os.path.realpath(folder))
        self._journal = RowJournal(journal_of(self.folder, digest), digest, sync)

    @property
    def path(self) -> Path:
        """The file."""
        return self._journal.path

    @property
    def digest(self) -> str:
        """The digest of the saved model that the journal belongs to."""
        return self._journal.base

    @property
    def behind(self) -> bool:
        """Whether the journal holds more than this process has read."""
        return self._journal.size > self._journal.position

    def close(self) -> None:
        """Closes the file."""
        self._journal.close()

    def follow(self) -> int:
        """Applies the updates of other processes; returns how many there were.

        Raises:
            ArtifactError: The journal is damaged, or its rows do not fit the model.
            TargetError: See `LiveTables.write`.
        """
        before = self._live.version
        while self._read():
            pass
        return self._live.version - before

    def write(self, updates: Sequence[NewRows]) -> int:
        """Appends an update and makes it visible; see `LiveTables.write`.

        Raises:
            ArtifactError: The journal cannot be written. The rows are then not visible either.
        """
        packed = self._live.packed(updates)
        self._live.prepare([new.table for new in updates])
        self._live.settle()
        while True:
            with self._journal.locked():
                if self._read():
                    continue
                self._require_present()
                self._journal.append(Record({self._name(new): _plain(new) for new in updates}))
                return self._live.write(updates, packed)

    def save(self) -> str:
        """Saves the model with its present rows to its folder, and begins a new journal. Returns the digest of the folder.

        Raises:
            ArtifactError: The folder or the journal cannot be written.
        """
        while True:
            with self._journal.locked():
                if self._read():
                    continue
                self._live.settle()
                return artifact.save(self._live.parts, self.folder, sealed=self._continue)

    def _continue(self, digest: str) -> None:
        """Begins the journal of a folder that is about to take the place of the present one."""
        old = self._journal
        if digest == old.base:
            return
        new = RowJournal(journal_of(self.folder, digest), digest, self._sync)
        old.append(Record({}, continued=digest))
        self._journal = new
        for path in self.folder.parent.glob(f"{self.folder.name}.rows-*"):
            if path not in (old.path, new.path):  # the old one is read by processes that are still behind
                path.unlink(missing_ok=True)

    def _read(self) -> bool:
        """Applies the updates that were not read yet; whether another journal continues this one, which is then open."""
        for record in self._journal.read():
            if record.continued:
                self._journal = RowJournal(journal_of(self.folder, record.continued), record.continued, self._sync)
                return True  # the old one is closed when its last user, who may hold its lock, is done with it
            try:
                self._live.write(self._live.checked(record.updates))
            except InputError as error:
                raise ArtifactError(
                    f"the journal holds rows that do not fit the model: {error.what}",
                    where=str(self._journal.path),
                    hint="load the model that the journal belongs to",
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
                "the journal was removed or replaced while it was in use; the rows were not written",
                where=str(self._journal.path),
                hint="put it back, or load the model again",
            )

    def _name(self, new: NewRows) -> str:
        return self._live.records[new.table].names[0]


def _plain(new: NewRows) -> tuple[torch.Tensor, torch.Tensor]:
    return new.ids, new.rows if new.rows.dtype in _KEPT else new.rows.float()
