"""Tables of a compiled model that take new rows while it is called.

The model is held twice, in two sides that differ only in these tables. Calls run on the active side. An update is written into the other
side, which then becomes the active one in one step. The rows are copied to the former side at once where no call runs on it, and otherwise
by the next update, before that is written there: the calls have ended by then, or are waited for. So a call sees all rows of an update or
none of them, and it neither waits nor takes a lock: it adds itself to the calls of a side and checks that the side is still the active one.

Calls and updates share the lock of the interpreter. A thread that waits for it wakes tens of microseconds later than it could, so an
update runs few lines of Python and calls the kernels once beside calls: to copy the rows of the last update, to check, pack and write its
own, and to append them to the journal.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import torch

from recfx.driver.other_tables import with_tables
from recfx.driver.parts import Parts
from recfx.driver.row_updates import (
    NewRows,
    checked_updates,
    packed_rows,
    require_sound,
    shaped_updates,
    table_at,
    table_names,
)
from recfx.driver.table_history import TableRecord
from recfx.driver.table_sides import PinnedModel, Side, run_parts
from recfx.errors import InputError, TargetError
from recfx.formats.rowwise import ROW_BITS, row_bytes
from recfx.ir.lookup_ops import TableKey, table_key
from recfx.kernels.private_copies import private_copy
from recfx.kernels.row_records import Outcome, RowRecord
from recfx.kernels.row_writes import RowUpdate, RowWrites, packs

#: Seconds for the calls of a side to end.
_LONGEST_CALL = 60.0
#: Seconds between two looks whether calls have ended, at first and at most. A look holds the lock of the interpreter.
_PAUSES = (100e-6, 2e-3)


#: Is given the function that makes new rows visible, and calls it.
Exchange = Callable[[Callable[[], None]], None]


class LiveTables:
    """The tables of a compiled model that take new rows.

    Args:
        parts: The compiled model.

    Attributes:
        lock: Held while rows are written.
        records: The tables of the model.
        version: The number of updates so far.

    Raises:
        InputError: The user's own model runs in place of the compiled one.
    """

    def __init__(self, parts: Parts) -> None:
        if parts.report.kept_eager:
            raise InputError(
                "your own model runs, since the compiled one measured slower, and it has tables of its own",
                where="update_tables",
                hint="write the rows into the weights of your model, or optimize with measure=False",
            )
        self.lock = threading.Lock()
        self.records = tables_of(parts)
        self._names = table_names(self.records)
        one_row = parts.report.one_row
        self._one_row = {r.names: r for r in one_row.tables} if one_row is not None else {}
        self.version = 0
        self._live: set[int] = set()
        self._sides = [Side(parts), Side(parts)]
        self._active = self._sides[0]
        self._leaving: list[Side] = []
        self._late: RowWrites | None = None  # the last update, whose rows the passive side does not hold yet
        self._last: list[int] = []  # its tables

    @property
    def parts(self) -> Parts:
        """The compiled model with the present rows."""
        return self._active.parts

    @property
    def copied(self) -> int:
        """The number of tables that were copied for both sides."""
        return len(self._live)

    def latest(self) -> list[tuple[str, torch.Tensor]]:
        """The tables that the last update wrote to, with the names that they have in the state of the program."""
        found = [(self.records[place], self._of_one_row(place)) for place in self._last]
        return [(record.state, self._active.tables(record, one_row)[0][1]) for record, one_row in found]

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, lossy: bool) -> Any:
        """A call of the model; see `run_unusual` for `lossy`."""
        side = self._entered()
        try:
            return run_parts(side.parts, args, kwargs, lossy=lossy)
        finally:
            side.calls.pop()

    def pinned(self, *, lossy: bool) -> PinnedModel:
        """The model with its present rows; see `run_unusual` for `lossy`."""
        side = self._entered()
        return PinnedModel(side.parts, side.calls, lossy=lossy)

    def _entered(self) -> Side:
        """The active side, with one more call."""
        while True:
            side = self._active
            side.calls.append(None)
            if side is self._active:
                return side
            side.calls.pop()

    def shaped(self, updates: Mapping[str, Any]) -> list[NewRows]:
        """Checks new rows as far as `write` does not; see `shaped_updates`."""
        return shaped_updates(self.records, updates, self._names)

    def check(self, updates: Mapping[str, Any]) -> None:
        """Checks whether `write` would take new rows, and writes nothing.

        Raises:
            InputError: It would not.
        """
        for new in checked_updates(self.records, updates, self._names):
            for record, table in self._active.tables(self.records[new.table], self._of_one_row(new.table)):
                packed_rows(record, table, new.rows, self._where(new))

    def places(self, names: Collection[str]) -> list[int]:
        """The positions of tables in `records`.

        Raises:
            InputError: A name is unknown, or the table takes no new rows.
        """
        return [table_at(self.records, name, self._names) for name in names]

    def prepare(self, places: Sequence[int]) -> None:
        """Makes tables ready for new rows: they are copied for both sides. Call it with the lock.

        Raises:
            InputError: A backend keeps a copy of a table.
        """
        fresh = [place for place in places if place not in self._live]
        if not fresh:
            return
        for place in fresh:
            for record, table in self._sides[0].tables(self.records[place], self._of_one_row(place)):
                _require_format(record, table)
        with torch.inference_mode(False):
            made = [self._with_copies(side, fresh) for side in self._sides]
        active = self._sides.index(self._active)
        self._leaving += self._sides
        self._sides, self._active = made, made[active]
        self._live.update(fresh)

    def _with_copies(self, side: Side, fresh: Sequence[int]) -> Side:
        """A side with its own copies of further tables."""
        held = [t for place in fresh for _, t in side.tables(self.records[place], self._of_one_row(place))]
        copies: dict[TableKey, torch.Tensor] = {table_key(tensor): private_copy(tensor) for tensor in held}
        return Side(with_tables(side.parts, copies))

    def write(
        self, updates: Sequence[NewRows], exchange: Exchange | None = None, record: RowRecord | None = None
    ) -> int:
        """Makes new rows visible to all calls that begin from now on. Call it with the lock.

        Args:
            updates: The rows, from `shaped`.
            exchange: Calls the function that it is given, which makes the rows visible. If it raises an error before, nothing is written.
            record: Is appended to a journal before the rows become visible. They do not where its `outcome` is another than WRITTEN.

        Returns:
            The number of updates so far.

        Raises:
            InputError: An id is outside its table, the format of a table cannot hold a number, or a backend keeps a copy of the table.
            TargetError: Calls that began before the last update have not ended.
        """
        self.prepare([new.table for new in updates])
        self._require_ended()
        passive = self._sides[1 - self._sides.index(self._active)]
        tables, writes = self._writes(passive, updates)

        def visible() -> None:
            self._leaving.append(self._active)
            self._active = passive
            self._late, self._last = writes, [new.table for new in updates]
            self.version += 1

        try:
            wrong = writes.write(self._late, record)
            self._late = None
            if wrong >= 0:
                self._refuse(passive, tables[wrong])
            if record is None or record.outcome is Outcome.WRITTEN:
                (exchange or _at_once)(visible)
        finally:
            if self._active is not passive:
                writes.take_back()
        if not any(side.calls for side in self._leaving):
            self.settle()  # at once, while the processor has the rows at hand
        return self.version

    def settle(self) -> None:
        """Waits until both sides hold the same rows. Call it with the lock.

        Raises:
            TargetError: Calls that began before the last update have not ended.
        """
        self._require_ended()
        late, self._late = self._late, None
        if late is not None:
            late.carry_over()

    def _require_ended(self) -> None:
        """Waits until no call reads the passive side.

        Raises:
            TargetError: Calls that began before the last update have not ended.
        """
        if not self._wait(_LONGEST_CALL):
            raise TargetError(
                f"a call that began before the last update has not ended after {_LONGEST_CALL:g} s",
                where="update_tables",
                hint="find out why the call hangs, and pass the rows again",
            )

    def _wait(self, seconds: float) -> bool:
        """Waits for the calls of former sides; whether they have ended."""
        begun, (pause, longest) = time.monotonic(), _PAUSES
        while any(side.calls for side in self._leaving):
            if time.monotonic() - begun > seconds:
                return False
            time.sleep(pause)
            pause = min(2 * pause, longest)
        self._leaving = []
        return True

    def _where(self, new: NewRows) -> str:
        return f"table {self.records[new.table].names[0]}"

    def _of_one_row(self, place: int) -> TableRecord | None:
        return self._one_row.get(self.records[place].names)

    def _pairs(self, side: Side, new: NewRows) -> list[tuple[TableRecord, torch.Tensor, torch.Tensor]]:
        """The tensors of the table of an update: its format, that of a side, and that which calls read."""
        record, one_row = self.records[new.table], self._of_one_row(new.table)
        present = self._active.tables(record, one_row)
        return [(*held, read) for held, (_, read) in zip(side.tables(record, one_row), present, strict=True)]

    def _writes(self, side: Side, updates: Sequence[NewRows]) -> tuple[list[NewRows], RowWrites]:
        """New rows on their way into a side that no call reads, and the update of each tensor that takes rows."""
        tables: list[NewRows] = []
        made: list[RowUpdate] = []
        for new in updates:
            for record, table, present in self._pairs(side, new):
                bits = 0 if record.refine or not packs(new.rows, table, record.bits) else record.bits
                rows = new.rows if bits else self._packed(record, table, new)
                made.append(RowUpdate(table, present, new.ids.contiguous(), rows.contiguous(), bits))
                tables.append(new)
        return tables, RowWrites(made)

    def _refuse(self, side: Side, new: NewRows) -> NoReturn:
        """Says why an update was not written.

        Raises:
            InputError: An id is outside its table, or the format of a table cannot hold a number.
        """
        for record, table, _ in self._pairs(side, new):
            self._packed(record, table, new)
        raise InputError(
            "the ids or rows were changed by another thread while they were written",
            where=self._where(new),
            hint="pass tensors that no other thread writes to, such as copies",
        )

    def _packed(self, record: TableRecord, table: torch.Tensor, new: NewRows) -> torch.Tensor:
        """New rows, checked and in the format of a table.

        Raises:
            InputError: An id is outside the table, or its format cannot hold a number.
        """
        require_sound(self.records, new)
        return packed_rows(record, table, new.rows, self._where(new))


def _at_once(visible: Callable[[], None]) -> None:
    visible()


def tables_of(parts: Parts) -> tuple[TableRecord, ...]:
    """The tables of a compiled model. A table must take new rows in the program and in that for one row."""
    records = parts.report.tables
    if parts.report.one_row is None:
        return records
    refused = {record.names: record.refused for record in parts.report.one_row.tables}
    return tuple(
        record if record.refused or not refused.get(record.names) else _refuse(record, refused[record.names])
        for record in records
    )


def _refuse(record: TableRecord, reason: str) -> TableRecord:
    return dataclasses.replace(record, refused=f"in the plan for one row, {reason}")


def _require_format(record: TableRecord, table: Any) -> None:
    """Checks that a tensor has the format of the record, which may come from a file.

    Raises:
        InputError: It has not.
    """
    packed = record.bits in ROW_BITS
    width = row_bytes(record.bits, record.columns) if packed else record.columns
    if (
        not isinstance(table, torch.Tensor)
        or table.shape != (record.rows, width)
        or not table.is_contiguous()
        or (table.dtype is not torch.uint8 if packed else not table.is_floating_point())
    ):
        raise InputError(
            "the compiled program holds it in another format than the model says",
            where=f"table {record.names[0]}",
            hint="optimize and save the model again",
        )
