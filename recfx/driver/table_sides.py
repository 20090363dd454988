"""The two sides of a compiled model whose tables take new rows, and a model that is held on one of them for several calls."""

from __future__ import annotations

from typing import Any

import torch

from recfx.driver.parts import Parts
from recfx.driver.table_history import TableRecord
from recfx.driver.unusual_calls import run_unusual
from recfx.ir.program import get_state


class Side:
    """The compiled model with its own tables, and the calls that run on it."""

    __slots__ = ("_held", "calls", "parts")

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.calls: list[None] = []
        self._held: dict[str, list[tuple[TableRecord, torch.Tensor]]] = {}

    def tables(self, record: TableRecord, one_row: TableRecord | None) -> list[tuple[TableRecord, torch.Tensor]]:
        """The tensors of a table: that of the program, and that of the program for one row."""
        if record.state in self._held:
            return self._held[record.state]
        found = [(record, get_state(self.parts.program.module, record.state))]
        if one_row is not None and one_row.state and self.parts.one_row is not None:
            other = get_state(self.parts.one_row.program.module, one_row.state)
            if other.data_ptr() != found[0][1].data_ptr():
                found.append((one_row, other))
        self._held[record.state] = found
        return found


class PinnedModel:
    """A compiled model with the rows of one moment, for several calls that must see the same rows. No update changes them while it lives.

    Args:
        parts: The compiled model.
        calls: The calls on its side, of which this object is one; None for a model whose tables take no rows.
        lossy: See `run_unusual`.
    """

    __slots__ = ("_calls", "_lossy", "parts")

    def __init__(self, parts: Parts, calls: list[None] | None, *, lossy: bool) -> None:
        self.parts, self._calls, self._lossy = parts, calls, lossy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model; see `CompiledModel`."""
        return run_parts(self.parts, args, kwargs, lossy=self._lossy)

    def release(self) -> None:
        """Lets updates change the rows; no call may follow."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.pop()

    __del__ = release


def run_parts(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any], *, lossy: bool) -> Any:
    """A call of a compiled model; see `run_unusual` for `lossy`."""
    try:
        return parts.entry(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - raised again, with its cause, unless the call can be run otherwise
        return run_unusual(parts, args, kwargs, error, lossy=lossy)
