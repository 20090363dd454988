"""The arguments of a recommender and of its calls, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.serve.engine.datatypes import fitted
from recfx.serve.engine.tensor_info import TensorInfo, shown
from recfx.serve.recommender.catalogue import AnyIndex
from recfx.serve.recommender.changes import EMBEDDING, IDS

#: The input with the items to leave out.
EXCLUDE = "exclude"

#: The class, for errors.
WHERE = "recfx.serve.Recommender"


def user_inputs(infos: Sequence[TensorInfo], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of users in the dtypes of the models, and "exclude", int64 [users, m].

    Args:
        infos: The inputs.
        tensors: Name -> tensor; "exclude" may be missing.

    Raises:
        InputError: Names, dtypes or shapes do not fit.
    """
    names = [info.name for info in infos]
    if tensors.keys() - {EXCLUDE} != set(names):
        missing = [name for name in names if name not in tensors]
        unknown = [name for name in tensors if name not in names and name != EXCLUDE]
        text = [f"missing {', '.join(missing)}"] if missing else []
        text += [f"unknown {', '.join(unknown)[:200]}"] if unknown else []
        raise InputError(
            f"wrong names of inputs: {'; '.join(text)}",
            hint=f"pass exactly {', '.join(names)}, and {EXCLUDE} if needed",
        )
    found = {info.name: _fitted(tensors[info.name], info) for info in infos}
    rows = {name: len(tensor) for name, tensor in found.items()}
    count = rows[names[0]]
    excluded = tensors.get(EXCLUDE)
    info = TensorInfo(EXCLUDE, torch.int64, (-1, -1))
    found[EXCLUDE] = torch.empty(count, 0, dtype=torch.int64) if excluded is None else _fitted(excluded, info)
    rows[EXCLUDE] = len(found[EXCLUDE])
    if other := next((name for name in rows if rows[name] != count), None):
        raise InputError(
            f"inputs differ in their rows: {names[0]} has {count}, {other} has {rows[other]}",
            hint="pass as many rows in each input",
        )
    return found


def item_values(value: Any, name: str, count: int) -> Tensor:
    """The values of all items for an input of the ranking model.

    Args:
        value: Tensor or NumPy array [items, ...].
        name: The input.
        count: Items of the index, deleted ones included.

    Raises:
        InputError: Their number is not that of the items.
    """
    found = torch.as_tensor(value)
    if not found.ndim or len(found) != count:
        raise InputError(
            f"{list(found.shape)} values for {count} items",
            where=f"inputs, {name}",
            hint="pass a row for each item that was added to the index, deleted ones included",
        )
    return found.detach().contiguous()


def require_options(index: AnyIndex, inputs: Mapping[str, Tensor], k: int, candidates: int) -> None:
    """Checks the arguments of a recommender.

    Args:
        index: The index.
        inputs: The inputs of items.
        k: Items in an answer.
        candidates: Items that are scored.

    Raises:
        InputError: One of them does not fit.
    """
    if not index.own_ids:
        raise InputError(
            "the items of the index have no ids of your own", where="index", hint="make the index with ids="
        )
    if not inputs or not inputs.keys().isdisjoint((EMBEDDING, IDS)):
        raise InputError(
            f"the ranking model needs an input of items, with another name than {EMBEDDING!r} and {IDS!r}",
            where="inputs",
            hint="pass the values of items for each input of the ranking model that describes an item",
        )
    for name, number in (("k", k), ("candidates", candidates)):
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1 << 20:
            raise InputError(f"{name} is {number!r}", where=WHERE, hint="pass an integer of at least 1")
    if k > candidates:
        raise InputError(
            f"k = {k} items of {candidates} candidates", where=WHERE, hint="pass candidates= of at least k"
        )


def _fitted(tensor: Tensor, info: TensorInfo) -> Tensor:
    found = fitted(tensor, info.dtype, f"input {info.name}")
    if found.ndim != len(info.shape) or any(
        wanted not in (-1, size) for size, wanted in zip(found.shape, info.shape, strict=True)
    ):
        raise InputError(
            f"expected shape {shown(info.shape)}, got {list(tensor.shape)}",
            where=f"input {info.name}",
            hint="pass a row for each user; -1 is a size of your choice",
        )
    return found
