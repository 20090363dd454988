"""`Change`: items to add, update and delete and new rows of tables, and its forms as tensors of a request and as a record of a journal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recfx.errors import ArtifactError, InputError
from recfx.formats.row_journal import Record
from recfx.retrieval.item_ids import tensor_of

#: The names of the vectors and ids of items in changes, which no input of a ranking model may have.
EMBEDDING, IDS = "embedding", "ids"

_KINDS = ("add", "update")
_DELETE = "delete"
_TABLES = ("query.", "ranking.")

#: New rows of a table: ids [n], and rows [n, columns].
TableRows = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Items:
    """Items with their values.

    Attributes:
        ids: int64 [n].
        embedding: The vectors by which they are found, floating point [n, d]; None to keep those of present items.
        inputs: Input of the ranking model -> its values, [n, ...]. Inputs of present items that are left out keep their values.
    """

    ids: Any
    embedding: Any = None
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Change:
    """What becomes visible together.

    Attributes:
        add: Items that do not exist, with all of their values; None to add none.
        update: Items that exist, with those values that change; None to update none.
        delete: Ids of items to delete, int64 [n]; None to delete none.
        tables: Table of a model -> ids and rows. Names are those of the model's own, behind "query." or "ranking.".
    """

    add: Items | None = None
    update: Items | None = None
    delete: Any = None
    tables: Mapping[str, TableRows] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Items and rows of tables in it."""
        items = sum(len(held.ids) for held in (self.add, self.update) if held is not None)
        deleted = 0 if self.delete is None else len(self.delete)
        return items + deleted + sum(len(ids) for ids, _ in self.tables.values())

    def tables_of(self, model: str) -> dict[str, TableRows]:
        """The new rows of one of the models, by its own names of the tables.

        Args:
            model: "query" or "ranking".
        """
        return {name[len(model) + 1 :]: rows for name, rows in self.tables.items() if name.startswith(f"{model}.")}

    def as_tensors(self) -> Change:
        """The same change with tensors in place of NumPy arrays.

        Raises:
            InputError: A value is neither, or a table belongs to no model.
        """
        for name in self.tables:
            if not name.startswith(_TABLES):
                raise InputError(
                    f"the table {name[:200]!r} belongs to no model",
                    where="tables",
                    hint="write query. or ranking. in front of the name that fast.tables lists",
                )
        deleted = None if self.delete is None else _tensor(self.delete, _DELETE)
        return Change(_items(self.add, "add"), _items(self.update, "update"), deleted, dict(self.tables))


def _items(held: Items | None, where: str) -> Items | None:
    if held is None:
        return None
    embedding = None if held.embedding is None else _tensor(held.embedding, f"{where}, {EMBEDDING}")
    inputs = {name: _tensor(value, f"{where}, {name}") for name, value in held.inputs.items()}
    return Items(_tensor(held.ids, f"{where}, {IDS}"), embedding, inputs)


def _tensor(value: Any, where: str) -> Tensor:
    found = tensor_of(value)
    if not isinstance(found, Tensor) or not found.ndim:
        raise InputError(
            f"expected a tensor with a row for each item, got {type(value).__name__}",
            where=where,
            hint="pass tensors or NumPy arrays",
        )
    return found


def change_of(tensors: Mapping[str, Tensor]) -> Change:
    """The change that the tensors of a request describe.

    Args:
        tensors: "add:ids", "add:embedding" and "add:INPUT" for each input of an item; the same with "update", where all but the ids may be
            left out; "delete:ids"; "ids:TABLE" and "rows:TABLE".

    Raises:
        InputError: A tensor has another name, or its counterpart is missing.
    """
    items: dict[str, dict[str, Tensor]] = {}
    ids: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(":")
        if kind in _KINDS and rest:
            items.setdefault(kind, {})[rest] = tensor
        elif kind in ("ids", "rows") and rest:
            (ids if kind == "ids" else rows)[rest] = tensor
        elif name != f"{_DELETE}:{IDS}":
            raise InputError(
                f"{name[:200]!r} is not the name of a tensor of a change",
                where="inputs",
                hint="send add:NAME, update:NAME, delete:ids, ids:TABLE and rows:TABLE",
            )
    if alone := sorted(ids.keys() ^ rows.keys()):
        raise _missing(f"{'rows' if alone[0] in ids else 'ids'}:{alone[0]}")
    found = {}
    for kind, held in items.items():
        if IDS not in held:
            raise _missing(f"{kind}:{IDS}")
        others = {name: tensor for name, tensor in held.items() if name not in (IDS, EMBEDDING)}
        found[kind] = Items(held[IDS], held.get(EMBEDDING), others)
    tables = {name: (ids[name], rows[name]) for name in ids}
    return Change(found.get("add"), found.get("update"), tensors.get(f"{_DELETE}:{IDS}"), tables)


def _missing(name: str) -> InputError:
    return InputError(f"{name[:200]!r} is missing", where="inputs", hint="send it together with its counterpart")


def record_of(change: Change) -> Record:
    """A change as a record of a journal: for each kind of value the ids of its items, and the numbers of each item in a row."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for kind, held in (("add", change.add), ("update", change.update)):
        if held is None:
            continue
        found[f"{kind}:{IDS}"] = held.ids, torch.empty(len(held.ids), 0)
        values = {**held.inputs, **({} if held.embedding is None else {EMBEDDING: held.embedding})}
        for name, value in values.items():
            found[f"{kind}:{name}"] = held.ids, value[:, None] if value.ndim == 1 else value.flatten(1)
    if change.delete is not None:
        found[f"{_DELETE}:{IDS}"] = change.delete, torch.empty(len(change.delete), 0)
    for name, (ids, rows) in change.tables.items():
        found[f"rows:{name}"] = torch.as_tensor(ids), torch.as_tensor(rows)
    return Record(found)


def change_from(record: Record, shapes: Mapping[str, tuple[int, ...]], where: str) -> Change:
    """The change of a record.

    Args:
        record: What `record_of` gave.
        shapes: Sizes of the values of one item, by name.
        where: The journal, for errors.

    Raises:
        ArtifactError: It does not describe a change of such items.
    """
    tensors: dict[str, Tensor] = {}
    for name, (ids, rows) in record.updates.items():
        kind, _, rest = name.partition(":")
        if kind == "rows":
            tensors |= {f"ids:{rest}": ids, name: rows}
        else:
            tensors[name] = ids if rest == IDS else _valued(name, rows, shapes.get(rest), where)
    try:
        return change_of(tensors)
    except InputError as error:
        raise _other(error.what, where) from error


def _valued(name: str, rows: Tensor, shape: tuple[int, ...] | None, where: str) -> Tensor:
    if shape is None or rows.shape[1] != math.prod(shape):
        raise _other(f"items have no {rows.shape[1]} numbers {name[:200]!r}", where)
    return rows.reshape(len(rows), *shape)


def _other(what: str, where: str) -> ArtifactError:
    return ArtifactError(
        f"the journal holds changes of other items: {what}",
        where=where,
        hint="load the folder that the journal belongs to",
    )
