"""Weights of a compiled model that take new rows while it is called, see `CompiledModel.update_tables`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from recfx.driver import artifact
from recfx.driver.frozen_weights import FrozenWeights
from recfx.driver.live_tables import Exchange, LiveTables, tables_of
from recfx.driver.parts import Parts
from recfx.driver.table_history import TableRecord
from recfx.driver.table_sides import PinnedModel
from recfx.driver.update_journal import UpdateJournal
from recfx.errors import InputError, RecfxError


class LiveWeights(FrozenWeights):
    """The weights of a model with parts: tables take new rows, all other weights change with the parts only.

    Attributes:
        cast_inputs: See `CompiledModel`.
    """

    def __init__(self, *, cast_inputs: bool) -> None:
        super().__init__()
        self.cast_inputs = cast_inputs
        self._lock = threading.Lock()
        self._parts: Parts | None = None
        self._live: LiveTables | None = None
        self._journal: UpdateJournal | None = None
        self._held_tables = 0
        self._saved = ("", 0)  # the digest of the folder that was loaded or saved last, and the updates before

    @property
    def digest(self) -> str:
        """The digest of the folder that the model was loaded from or saved to last; "" without one."""
        return self._saved[0]

    @property
    def tables(self) -> tuple[TableRecord, ...]:
        """The embedding tables of the model: names, sizes, formats, and why a table takes no new rows if it takes none."""
        return tables_of(self._ready())

    @property
    def table_version(self) -> int:
        """The number of updates of tables since the model was made, loaded or refreshed."""
        return 0 if self._live is None else self._live.version

    def update_tables(self, updates: Mapping[str, tuple[Any, Any]], *, exchange: Exchange | None = None) -> int:
        """Writes new rows into embedding tables while other threads call the model.

        A call sees all rows of an update or none of them. The rows are stored in the formats of their tables, with the bits that `optimize`
        gives to such rows. At its first update a table is copied twice; tables of a loaded model that are mapped to files take
        memory only for the pages that are written to. From then on it is not shared with the user's model, whose weights
        never change.

        Args:
            updates: Name of a table -> ids [n] and rows [n, columns]. The name is that of the parameter in the user's model, such as
                "items.weight", or of its module. Where an id occurs several times, its last row counts.
            exchange: Calls the function that it is given, which makes the rows visible: rows of several models, or other data, become
                visible together. If it raises an error before, nothing is written. Not with `keep_updates`.

        Returns:
            The number of updates so far. The rows are visible to all calls that begin after this one returns.

        Raises:
            InputError: A table is unknown or takes no new rows (a pass computed other weights from it, or a backend keeps a copy), or ids
                or rows do not fit. Nothing is written then.
            TargetError: A call that began before the last update hangs.
            ArtifactError: The journal of `keep_updates` cannot be written. Nothing is written then.
        """
        live = self._with_live_tables()
        with live.lock:
            self._require_present(live)
            shaped = live.shaped(updates)
            if self._journal is None:
                version = live.write(shaped, exchange)
            elif exchange is None:
                version = self._journal.write(shaped)
            else:
                raise InputError(
                    "the model keeps its updates in a journal of its own",
                    where="exchange",
                    hint="leave exchange= out, or do not call keep_updates",
                )
            self._hold_present(live)
            return version

    def pinned(self) -> PinnedModel:
        """The model with its present rows, for several calls that must see the same rows.

        Updates after the next one wait for the end of the returned object.
        """
        live = self._live
        if live is None:
            return PinnedModel(self._ready(), None, lossy=self.cast_inputs)
        return live.pinned(lossy=self.cast_inputs)

    def check_updates(self, updates: Mapping[str, tuple[Any, Any]]) -> None:
        """Checks whether `update_tables` would take new rows, and writes nothing.

        Raises:
            InputError: See `update_tables`.
        """
        self._with_live_tables().check(updates)

    def prepare_updates(self, tables: Collection[str] | None = None) -> None:
        """Makes tables ready for new rows now, which `update_tables` otherwise does at the first update of a table.

        Args:
            tables: Names of tables; by default all that take new rows.

        Raises:
            InputError: See `update_tables`.
        """
        live = self._with_live_tables()
        if tables is None:
            tables = [record.names[0] for record in live.records if record.state and not record.refused]
        chosen = live.places(tables)
        with live.lock:
            self._require_present(live)
            live.prepare(chosen)
            self._hold_present(live)

    def keep_updates(self, path: str | PathLike[str], *, sync: Literal["process", "disk"] = "process") -> int:
        """Keeps updates in a journal beside a saved model, so that a process that loads the model has them.

        First it applies the updates that the journal holds. Other processes may keep their updates of the same model there, too; see
        `follow_updates`. `save` to the same folder writes the rows into the model and begins a new journal.

        Args:
            path: The folder that this model was loaded from or saved to last, without updates since.
            sync: When `update_tables` returns: "process" when the journal survives the death of the process, "disk" when it survives a
                loss of power.

        Returns:
            The number of updates that the journal held.

        Raises:
            InputError: The folder holds another model than this one, or the model keeps its updates already.
            ArtifactError: The journal is damaged, belongs to another model, or cannot be opened.
        """
        folder = Path(path)
        hint = "call it once, right after load or save, with the same folder"
        live = self._with_live_tables()
        with live.lock:
            digest, version = self._saved
            if self._journal is not None:
                raise InputError("the model keeps its updates already", where=str(folder), hint=hint)
            if not digest or digest != artifact.digest_of(folder) or version != live.version:
                raise InputError("the folder does not hold this model with its rows", where=str(folder), hint=hint)
            journal = UpdateJournal(live, folder, digest, sync)
            try:
                found = journal.follow()
            except BaseException:
                journal.close()
                raise
            self._journal = journal
            self._hold_present(live)
            return found

    def follow_updates(self) -> int:
        """Applies the updates that other processes have added to the journal of `keep_updates`; returns how many there were.

        Without new updates it takes one or two microseconds, so that a server may call it many times a second.

        Raises:
            ArtifactError: The journal is damaged.
            TargetError: See `update_tables`.
        """
        live, journal = self._live, self._journal
        if live is None or journal is None or not journal.behind:
            return 0
        with live.lock:
            found = journal.follow()
            self._hold_present(live)
            return found

    def _with_live_tables(self) -> LiveTables:
        with self._lock:
            if self._live is None:
                self._live = LiveTables(self._ready())
            return self._live

    def _hold_present(self, live: LiveTables) -> None:
        """Makes `parameters` and `state_dict` give the tables with the present rows."""
        if self._held_tables != live.copied:
            self.hold_weights(live.parts.program.state())
            self._held_tables = live.copied
        for name, tensor in live.latest():
            self.exchange_weight(name, tensor)

    def _require_present(self, live: LiveTables) -> None:
        """Checks that the model was not refreshed meanwhile."""
        if live is not self._live:
            raise InputError(
                "the model was refreshed meanwhile, so the rows were not written",
                where="update_tables",
                hint="pass the rows again, if the new weights do not hold them",
            )

    @contextmanager
    def _steady(self) -> Iterator[Parts]:
        """A context in which no rows are written; gives the parts with the present rows."""
        live = self._live
        with contextlib.nullcontext() if live is None else live.lock:
            yield self._ready()

    def _ready(self) -> Parts:
        """The parts, with the present rows."""
        live = self._live
        if live is not None:
            return live.parts
        if self._parts is None:
            raise RecfxError(
                "the model has not been captured yet",
                hint="call it once, or pass example_inputs to optimize",
            )
        return self._parts

    def _forget_updates(self, digest: str) -> None:
        """Begins again without updates, after a change to the parts of a folder with this digest."""
        self._held_tables = 0
        self._live, self._saved = None, (digest, 0)
