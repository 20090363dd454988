"""Updates of tables that outlive the process: each is appended to a journal beside the saved model before it becomes visible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recfx.driver import artifact
from recfx.driver.live_tables import LiveTables
from recfx.driver.row_updates import NewRows
from recfx.errors import ArtifactError, InputError
from recfx.formats.journal_chain import JournalChain
from recfx.formats.row_journal import Record, Sync

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
