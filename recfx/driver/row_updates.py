"""New rows of embedding tables: what `CompiledModel.update_tables` takes, checked, and packed into the format of a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recfx.driver.table_history import TableRecord
from recfx.errors import IdError, InputError
from recfx.formats.rowwise import ROW_BITS
from recfx.kernels.encoding import pack_new_rows
from recfx.kernels.row_writes import are_sound

#: As many names of tables are listed in an error.
_LISTED = 12


@dataclasses.dataclass(frozen=True)
class NewRows:
    """New rows of one table.

    Attributes:
        table: The position of the table in the records.
        ids: int64 [n]. Where one occurs several times, its last row counts.
        rows: Floating point [n, columns].
    """

    table: int
    ids: torch.Tensor
    rows: torch.Tensor


def checked_updates(
    records: Sequence[TableRecord], updates: Mapping[str, Any], names: Mapping[str, int] | None = None
) -> list[NewRows]:
    """Checks new rows: names, dtypes and sizes as `shaped_updates`, and ids and numbers as `require_sound`."""
    found = shaped_updates(records, updates, names)
    for new in found:
        require_sound(records, new)
    return found


def shaped_updates(
    records: Sequence[TableRecord], updates: Mapping[str, Any], names: Mapping[str, int] | None = None
) -> list[NewRows]:
    """Checks the names, dtypes and sizes of new rows. Ids and numbers are not read.

    Args:
        records: The tables of the model.
        updates: Name of a table -> its ids and its rows. The name is that of the parameter in the user's model or of its module. Where an
            id occurs several times, its last row counts.
        names: `table_names(records)`, if it is at hand.

    Raises:
        InputError: A name is unknown, a table takes no new rows, or ids or rows have other dtypes or sizes.
    """
    if not isinstance(updates, Mapping):
        raise InputError(
            f"expected a mapping of tables to new rows, got {type(updates).__name__}",
            where="update_tables",
            hint="pass {'items.weight': (ids, rows)}",
        )
    found: dict[int, NewRows] = {}
    for name, given in updates.items():
        place = table_at(records, name, names)
        record = records[place]
        if place in found:
            raise InputError(
                "the update names it twice, by different names of one tied table",
                where=f"table {name}",
                hint="pass all its rows under one name",
            )
        found[place] = _shaped(place, record, given, f"table {name}")
    return list(found.values())


def table_at(records: Sequence[TableRecord], name: str, names: Mapping[str, int] | None = None) -> int:
    """The position of a table that takes new rows; `names` as in `checked_updates`.

    Raises:
        InputError: The name is unknown, or the table takes no new rows.
    """
    place = (table_names(records) if names is None else names).get(name)
    if place is None:
        raise _unknown(str(name), records)
    record = records[place]
    if record.refused or not record.state:
        raise InputError(
            f"the table takes no new rows: {record.refused or 'the compiled model does not read it'}",
            where=f"table {name}",
            hint="change the weights of your model and call refresh(), or optimize without that pass or backend",
        )
    return place


def table_names(records: Sequence[TableRecord]) -> dict[str, int]:
    """The names of tables, and those of their modules where they are clear -> position in `records`."""
    places = {name: place for place, record in enumerate(records) for name in record.names}
    modules: dict[str, set[int]] = {}
    for name, place in places.items():
        modules.setdefault(name.rpartition(".")[0], set()).add(place)
    clear = {module: next(iter(found)) for module, found in modules.items() if module and len(found) == 1}
    return clear | places


def _unknown(name: str, records: Sequence[TableRecord]) -> InputError:
    able = [record.names[0] for record in records if record.state and not record.refused]
    listed = ", ".join(able[:_LISTED]) + (f" and {len(able) - _LISTED} more" if len(able) > _LISTED else "")
    return InputError(
        f"the model has no table {name[:200]!r}",
        where="update_tables",
        hint=f"tables that take new rows: {listed}"
        if able
        else "no table of this model takes new rows; models saved by earlier versions do not know their tables: optimize and save again",
    )


def _shaped(place: int, record: TableRecord, given: Any, where: str) -> NewRows:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(
            f"expected (ids, rows), got {type(given).__name__}", where=where, hint="pass a pair of tensors"
        )
    ids, rows = (_tensor(value, kind, where) for value, kind in zip(given, ("ids", "rows"), strict=True))
    if ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
        raise InputError(f"its ids are {ids.dtype}", where=where, hint="pass ids as int64 or int32")
    if not rows.is_floating_point():
        raise InputError(f"its rows are {rows.dtype}", where=where, hint="pass rows as float32")
    if ids.ndim != 1 or rows.shape != (len(ids), record.columns):
        raise InputError(
            f"expected ids [n] and rows [n, {record.columns}], got {list(ids.shape)} and {list(rows.shape)}",
            where=where,
            hint=f"pass one row of {record.columns} numbers for each id",
        )
    return NewRows(place, ids.long(), rows)


def require_sound(records: Sequence[TableRecord], new: NewRows) -> None:
    """Checks that ids are inside their table and numbers are finite.

    Raises:
        IdError: An id is outside its table.
        InputError: A number is not finite.
    """
    ids, rows, record = new.ids, new.rows, records[new.table]
    if are_sound(ids, rows, record.rows):
        return
    where = f"table {record.names[0]}"
    if len(ids):
        low, high = (int(value) for value in ids.aminmax())
        if low < 0 or high >= record.rows:
            raise IdError(
                f"the id {low if low < 0 else high} is outside the table of {record.rows} rows",
                where=where,
                hint=f"ids must be in [0, {record.rows}); a table does not grow: optimize a model with more rows",
            )
    _require_finite(rows, where)


def _tensor(value: Any, kind: str, where: str) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"its {kind} are not numbers: {error}", where=where, hint="pass tensors or arrays") from error
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise InputError(
            f"its {kind} are a {tensor.layout} tensor on {tensor.device}",
            where=where,
            hint="pass dense tensors on the CPU",
        )
    return tensor


def _require_finite(rows: torch.Tensor, where: str) -> None:
    if not rows.numel() or all(math.isfinite(float(value)) for value in rows.aminmax()):
        return
    bad = int((~rows.isfinite().all(1)).nonzero()[0])
    raise InputError(
        f"row {bad} of the update holds NaN or infinities", where=where, hint="leave out rows that training has spoiled"
    )


def packed_rows(record: TableRecord, table: torch.Tensor, rows: torch.Tensor, where: str) -> torch.Tensor:
    """New rows in the format of a table.

    Args:
        record: The table.
        table: The tensor that holds it in the compiled program.
        rows: Floating point [n, columns], finite.
        where: The table, for errors.

    Raises:
        InputError: The format cannot hold a number.
    """
    if record.bits in ROW_BITS:
        try:
            return pack_new_rows(rows.float(), record.bits, refine=record.refine)
        except InputError as error:
            raise InputError(
                error.what.replace("of the table", "of the update"), where=where, hint=error.hint
            ) from error
    packed = rows.to(table.dtype)
    if packed is not rows:
        _require_finite(packed, where)
    return packed
