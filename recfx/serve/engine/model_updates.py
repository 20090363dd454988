"""`ModelUpdates`: new rows for the tables of a served model, as tensors of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recfx.compiled import CompiledModel
from recfx.errors import InputError

#: The names of the tensors of an update: this and the name of the table.
IDS, ROWS = "ids:", "rows:"


class ModelUpdates:
    """New rows for the tables of a model. The methods are those of `Updatable`.

    Args:
        model: The model.
    """

    def __init__(self, model: CompiledModel) -> None:
        self._model = model

    def check(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Checks new rows; see `CompiledModel.check_updates`."""
        self._model.check_updates(_paired(tensors))

    def update(self, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Writes new rows; see `CompiledModel.update_tables`.

        Args:
            tensors: "ids:TABLE" and "rows:TABLE" for each table.

        Returns:
            The number of updates so far, and the rows of this one.
        """
        updates = _paired(tensors)
        return self._model.update_tables(updates), sum(len(ids) for ids, _ in updates.values())

    def follow(self) -> int:
        """Applies the updates of other processes; see `CompiledModel.follow_updates`."""
        return self._model.follow_updates()

    def document(self) -> dict[str, Any]:
        """The tables: names, sizes, formats, and why a table takes no rows if it takes none."""
        return {"table_version": self._model.table_version, "tables": tables_of(self._model)}


def tables_of(model: CompiledModel, prefix: str = "") -> list[dict[str, Any]]:
    """The tables of a model, for clients.

    Args:
        model: The model.
        prefix: What stands before their names.
    """
    return [
        {
            "names": [prefix + name for name in record.names],
            "rows": record.rows,
            "columns": record.columns,
            "bits": record.bits,
            "refused": record.refused or ("" if record.state else "the model does not read it"),
        }
        for record in model.tables
    ]


def _paired(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Table -> ids and rows.

    Raises:
        InputError: A tensor has another name, or its counterpart is missing.
    """
    tables = dict.fromkeys(name.partition(":")[2] for name in tensors if name.startswith((IDS, ROWS)))
    want = {kind + table for table in tables for kind in (IDS, ROWS)}
    if odd := sorted(want.symmetric_difference(tensors)):
        raise InputError(
            f"{odd[0][:200]!r} is {'missing' if odd[0] in want else 'not the name of a tensor of an update'}",
            where="inputs",
            hint="send the tensors ids:TABLE and rows:TABLE for each table",
        )
    return {table: (tensors[IDS + table], tensors[ROWS + table]) for table in tables}
