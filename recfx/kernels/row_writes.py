"""New rows of a table: checked, and written to their places, each in one call that holds no lock of the interpreter."""

from __future__ import annotations

import torch

from recfx.errors import IdError
from recfx.kernels.library import library, missing
from recfx.kernels.memory import address


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


def write_rows(table: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> None:
    """Writes `rows[i]` to `table[ids[i]]`. Where an id occurs several times, its last row stays.

    Args:
        table: [n, columns], contiguous.
        ids: int64 [m].
        rows: [m, columns], of the dtype of the table.

    Raises:
        IdError: An id is outside the table. Nothing is written.
    """
    ids, rows = ids.contiguous(), rows.contiguous()
    if missing():
        wrong = _first_outside(ids, len(table))
        if wrong < 0:
            table.index_copy_(0, *_each_once(ids, rows))
    else:
        width = rows.shape[1] * rows.element_size()
        wrong = library().calls["recfx_write_rows"](
            address(ids), len(ids), address(rows), width, address(table), len(table)
        )
    if wrong >= 0:
        raise IdError(
            f"the id {int(ids[wrong])} is outside the table of {len(table)} rows",
            hint=f"ids must be in [0, {len(table)})",
        )


def _first_outside(ids: torch.Tensor, rows: int) -> int:
    outside = ((ids < 0) | (ids >= rows)).nonzero()
    return int(outside[0]) if len(outside) else -1


def _each_once(ids: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, each once, with the last row of each."""
    ordered, order = ids.sort(stable=True)
    last = torch.ones(len(ids), dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return ordered[last], rows[order[last]]
