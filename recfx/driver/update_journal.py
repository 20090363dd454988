"""Updates of tables that outlive the process: each is appended to a journal beside the saved model before it becomes visible."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recfx.driver import artifact
from recfx.driver.live_tables import LiveTables
from recfx.driver.row_updates import NewRows
from recfx.errors import ArtifactError, InputError
from recfx.formats.journal_chain import JournalChain
from recfx.formats.row_journal import Record, Sync, payload_parts
from recfx.kernels.library import missing
from recfx.kernels.row_records import Outcome, RowRecord

#: Dtypes of rows that are kept as they are; rows of others become float32.
_KEPT = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class UpdateJournal(JournalChain):
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
        self._live = live
        super().__init__(folder, digest, sync, self._write_record)

    def write(self, updates: Sequence[NewRows]) -> int:
        """Appends an update and makes it visible; see `LiveTables.write`.

        Raises:
            ArtifactError: The journal cannot be written. The rows are then not visible either.
        """
        record = Record({self._name(new): _plain(new) for new in updates})
        if missing():
            return self._written_after(record, updates)
        first = self._recorded(record, locked=False)
        version = self._live.write(updates, record=first)
        if first.outcome is not Outcome.NOT_READY:
            return self._ended(first, version)
        self._live.settle()
        with self.locked():  # others have appended, or do now
            self.require_whole()
            second = self._recorded(record, locked=True)
            return self._ended(second, self._live.write(updates, record=second))

    def _recorded(self, record: Record, *, locked: bool) -> RowRecord:
        """A record for the kernel."""
        journal = self._journal
        description, tensors = payload_parts(record)
        place = (journal.file, os.fsencode(journal.path), journal.position)
        return RowRecord(*place, description, tensors, locked=locked, to_disk=journal.to_disk)

    def _ended(self, record: RowRecord, version: int) -> int:
        """The version after a record was written.

        Raises:
            ArtifactError: It was not.
        """
        if record.outcome is Outcome.WRITTEN:
            self._journal.position = record.position
            return version
        error = OSError(record.error, os.strerror(record.error))
        raise self._journal.refused(error) from error

    def _written_after(self, record: Record, updates: Sequence[NewRows]) -> int:
        """Appends a record without the kernel, and makes its rows visible."""

        def append(visible: Callable[[], None]) -> None:
            self.append(record)
            visible()

        self._live.prepare([new.table for new in updates])
        self._live.settle()
        with self.locked():
            return self._live.write(updates, append)

    def save(self) -> str:
        """Saves the model with its present rows to its folder, and begins a new journal. Returns the digest of the folder.

        Raises:
            ArtifactError: The folder or the journal cannot be written.
        """
        with self.locked():
            self._live.settle()
            return artifact.save(self._live.parts, self.folder, sealed=self.continued)

    def _write_record(self, record: Record, where: str) -> None:
        try:
            self._live.write(self._live.shaped(record.updates))
        except InputError as error:
            raise ArtifactError(
                f"the journal holds rows that do not fit the model: {error.what}",
                where=where,
                hint="load the model that the journal belongs to",
            ) from error

    def _name(self, new: NewRows) -> str:
        return self._live.records[new.table].names[0]


def _plain(new: NewRows) -> tuple[torch.Tensor, torch.Tensor]:
    return new.ids, new.rows if new.rows.dtype in _KEPT else new.rows.float()
