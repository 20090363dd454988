"""`Catalogue`: the items of a recommender: an index that finds them, and the values that the ranking model takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.retrieval.grid import checked
from recfx.retrieval.index import Index
from recfx.retrieval.store import repeated
from recfx.retrieval.two_stage import TwoStageIndex
from recfx.serve.engine.datatypes import NAMES, fitted
from recfx.serve.recommender.changes import EMBEDDING, IDS, Change, Items
from recfx.serve.recommender.item_inputs import ItemInputs

AnyIndex = Index | TwoStageIndex


def dim_of(index: AnyIndex) -> int:
    """The numbers in a vector of an index."""
    return index.first.dim if isinstance(index, TwoStageIndex) else index.dim


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The items of a recommender.

    Attributes:
        index: Finds them; it has ids of the caller's own.
        inputs: What the ranking model takes of them.
    """

    index: AnyIndex
    inputs: ItemInputs

    def __len__(self) -> int:
        """Items."""
        return len(self.index)

    def copy(self) -> Catalogue:
        """The same items in memory of their own."""
        return Catalogue(self.index.copy(), self.inputs.copy())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The sizes of the values of one item: those of its vector, and of each input."""
        inputs = {name: tuple(value.shape[1:]) for name, value in self.inputs.values.items()}
        return {EMBEDDING: (dim_of(self.index),), **inputs}

    def checked(self, change: Change) -> Change:
        """A change with ids in int64 and values in the dtypes of the items.

        Raises:
            InputError: Ids do not exist, exist already or occur twice, values are missing, or their dtypes, sizes or numbers do not fit.
        """
        change = change.as_tensors()
        add, update = self._checked(change.add, "add"), self._checked(change.update, "update")
        delete = None if change.delete is None else self._ids(change.delete, "delete")
        none = torch.empty(0, dtype=torch.int64)
        named = {"add": none if add is None else add.ids, "update": none if update is None else update.ids}
        named["delete"] = none if delete is None else delete
        for where in ("update", "delete"):
            self._require_present(named[where], where)
        there = self.index.positions(named["add"]) >= 0
        if bool(there.any()):
            raise InputError(
                f"the item {int(named['add'][there][0])} exists already",
                where="add",
                hint="update it, or delete it in an earlier change",
            )
        if repeated(torch.cat(list(named.values()))):
            raise InputError(
                "an item occurs twice in a change",
                where="add, update, delete",
                hint="name each item once, in one of the three",
            )
        return dataclasses.replace(change, add=add, update=update, delete=delete)

    def apply(self, change: Change) -> None:
        """Changes the items. No search may run meanwhile.

        Args:
            change: What `checked` gave.

        Raises:
            InputError: The index does not take the vectors. The items may then be partly changed.
        """
        if change.delete is not None and len(change.delete):
            self.index.delete(change.delete)
        if (update := change.update) is not None and len(update.ids):
            if update.embedding is not None:
                self.index.update(update.ids, update.embedding)
            self.inputs.write(self.index.positions(update.ids), update.inputs)
        if (add := change.add) is not None and len(add.ids):
            self.index.add(add.embedding, ids=add.ids)
            self.inputs.write(self.index.positions(add.ids), add.inputs)
        self.index.positions(torch.empty(0, dtype=torch.int64))  # ids are sorted now, and not in the next request

    def _require_present(self, ids: Tensor, where: str) -> None:
        missing = self.index.positions(ids) < 0
        if bool(missing.any()):
            raise InputError(
                f"the item {int(ids[missing][0])} does not exist", where=where, hint="add it, or leave it out"
            )

    def _ids(self, ids: Tensor, where: str) -> Tensor:
        if ids.ndim != 1 or ids.dtype.is_floating_point or ids.dtype is torch.bool:
            raise InputError(
                f"expected int64 [n], got {ids.dtype} {list(ids.shape)}",
                where=f"{where}, {IDS}",
                hint="pass an integer for each item",
            )
        plain = ids.to(torch.int64)
        if bool((plain == -1).any()):
            raise InputError(
                "-1 cannot be the id of an item: it stands for no item in answers",
                where=f"{where}, {IDS}",
                hint="give that item another id",
            )
        return plain

    def _checked(self, items: Items | None, where: str) -> Items | None:
        if items is None:
            return None
        ids = self._ids(items.ids, where)
        embedding = None
        if items.embedding is not None:
            embedding = checked(items.embedding, dim_of(self.index), f"{where}, {EMBEDDING}")
            _require_count(len(embedding), len(ids), f"{where}, {EMBEDDING}")
        elif where == "add":
            raise InputError("items need vectors", where=f"add, {EMBEDDING}", hint="pass floating point [n, d]")
        return Items(ids, embedding, self._checked_inputs(items.inputs, len(ids), where))

    def _checked_inputs(self, given: Mapping[str, Tensor], count: int, where: str) -> dict[str, Tensor]:
        held = self.inputs.values
        missing = [name for name in held if name not in given] if where == "add" else []
        unknown = [name for name in given if name not in held]
        if missing or unknown:
            text = [f"missing {', '.join(missing)}"] if missing else []
            text += [f"unknown {', '.join(unknown)[:200]}"] if unknown else []
            raise InputError(
                f"wrong values of items: {'; '.join(text)}", where=where, hint=f"items have {', '.join(held)}"
            )
        found = {}
        for name, value in given.items():
            place = f"{where}, {name}"
            if value.dtype not in NAMES:
                raise InputError(f"{value.dtype} cannot be served", where=place, hint=f"pass {held[name].dtype}")
            plain = fitted(value.detach().cpu(), held[name].dtype, place)
            if plain.shape[1:] != held[name].shape[1:]:
                sizes = ", ".join(map(str, ("n", *held[name].shape[1:])))
                raise InputError(
                    f"expected shape [{sizes}], got {list(plain.shape)}", where=place, hint="pass a row for each item"
                )
            _require_count(len(plain), count, place)
            found[name] = plain
        return found


def _require_count(count: int, wanted: int, where: str) -> None:
    if count != wanted:
        raise InputError(f"{count} values for {wanted} items", where=where, hint="pass one for each item")
