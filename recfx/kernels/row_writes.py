"""New rows of tables: checked, packed and written to their places, in one call that holds no lock of the interpreter."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence

import torch

from recfx.kernels.library import library, missing
from recfx.kernels.memory import address
from recfx.kernels.row_records import RowRecord

_i64, _p = ctypes.c_int64, ctypes.c_void_p

#: Bits of a number of a table -> the dtype of tables whose float32 rows the kernel checks and packs.
_PACKED = {32: torch.float32, 16: torch.bfloat16, 8: torch.uint8, 4: torch.uint8, 2: torch.uint8}


class CRowUpdate(ctypes.Structure):
    """RecfxRowUpdate of csrc/row_writes.h."""

    _fields_ = (
        *((name, _i64) for name in ("struct_bytes", "bits")),
        *((name, _p) for name in ("ids", "kept")),
        ("count", _i64),
        ("rows", _p),
        ("columns", _i64),
        *((name, _p) for name in ("table", "present")),
        *((name, _i64) for name in ("table_rows", "row_bytes")),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class RowUpdate:
    """New rows of a table that is held twice: one copy is written to while calls read the other.

    Attributes:
        table: [n, width], contiguous: the copy that is written to.
        present: The other copy, which holds the present rows.
        ids: int64 [m], contiguous.
        rows: [m, columns], contiguous: float32 where `bits` is not 0, and otherwise as the table holds them.
        bits: Of a number of the table, if the kernel checks and packs the rows; see `packs`. 0 for rows that were checked before.
    """

    table: torch.Tensor
    present: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor
    bits: int = 0


def packs(rows: torch.Tensor, table: torch.Tensor, bits: int) -> bool:
    """Whether the kernel checks rows and packs them for a table.

    Args:
        rows: [m, columns], floating point.
        table: float32, bfloat16 or float16 [n, columns], or uint8 [n, width].
        bits: Of a number of the table; packed rows have a scale and a bias from their extremes.
    """
    return rows.dtype is torch.float32 and table.dtype is _PACKED.get(bits) and rows.shape[1] > 0 and not missing()


def are_sound(ids: torch.Tensor, rows: torch.Tensor, table_rows: int) -> bool:
    """Whether ids and rows are known to fit a table: all ids inside it, and all numbers finite.

    Args:
        ids: [m], of integers.
        rows: [m, columns], of floating-point numbers.
        table_rows: The number of the table's rows.

    Returns:
        False also where the kernel cannot tell: without it, and for other dtypes than int64 and float32 and tensors with gaps.
    """
    if ids.dtype is not torch.int64 or rows.dtype is not torch.float32 or missing():
        return False
    if not (ids.is_contiguous() and rows.is_contiguous()):
        return False
    check = library().calls["recfx_rows_are_sound"]
    return bool(check(address(ids), len(ids), table_rows, address(rows), rows.shape[1]))


class RowWrites:
    """New rows of some tables on their way into both copies: `write`, and then `take_back` or `carry_over`.

    Args:
        updates: The rows. Their tensors must not change until `write` has returned.
    """

    __slots__ = ("_copies", "_kept", "_structs", "_updates")

    def __init__(self, updates: Sequence[RowUpdate]) -> None:
        self._updates = updates
        self._copies = [(update.table, update.present) for update in updates]
        self._kept = [torch.empty(len(update.ids), dtype=torch.int64) for update in updates]
        self._structs = None if missing() else (CRowUpdate * len(updates))(*map(_struct, updates, self._kept))

    def write(self, late: RowWrites | None = None, record: RowRecord | None = None) -> int:
        """Writes `rows[i]` to `table[ids[i]]` for each update. Where an id occurs several times, its last row stays.

        Args:
            late: Earlier updates, whose rows are carried over first.
            record: Is appended to a journal after the rows have proved to fit; its `outcome` says whether it was. Only with the kernel.

        Returns:
            -1, or the position of an update with an id outside its table or a number that the table cannot hold. All tables have the
            present rows then, and also where the record was not appended.
        """
        updates, self._updates = self._updates, ()
        if self._structs is not None:
            before = (None, 0) if late is None else (late._structs, len(late._copies))
            appended = None if record is None else record.address
            return int(library().calls["recfx_update_rows"](self._structs, len(updates), *before, appended))
        if late is not None:
            late.carry_over()
        for position, update in enumerate(updates):
            if len(update.ids) and not 0 <= int(update.ids.min()) <= int(update.ids.max()) < len(update.table):
                return position
        with torch.no_grad():
            for update, kept in zip(updates, self._kept, strict=True):
                update.table.index_copy_(0, *_each_once(update.ids, update.rows))
                kept.copy_(update.ids)
        return -1

    def take_back(self) -> None:
        """Writes the present rows to `table`."""
        self._copy(to_present=False)

    def carry_over(self) -> None:
        """Writes the new rows to `present`, too."""
        self._copy(to_present=True)

    def _copy(self, *, to_present: bool) -> None:
        if self._structs is not None:
            library().calls["recfx_copy_rows"](self._structs, len(self._copies), to_present)
            return
        with torch.no_grad():
            for (table, present), ids in zip(self._copies, self._kept, strict=True):
                to, source = (present, table) if to_present else (table, present)
                to.index_copy_(0, ids, source.index_select(0, ids))


def _struct(update: RowUpdate, kept: torch.Tensor) -> CRowUpdate:
    ids, rows, table = update.ids, update.rows, update.table
    count, width = table.shape
    return CRowUpdate(
        ctypes.sizeof(CRowUpdate),
        update.bits,
        address(ids),
        address(kept),
        ids.numel(),
        address(rows),
        rows.shape[1],
        address(table),
        address(update.present),
        count,
        width * table.element_size(),
    )


def _each_once(ids: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, each once, with the last row of each."""
    ordered, order = ids.sort(stable=True)
    last = torch.ones(len(ids), dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return ordered[last], rows[order[last]]
