"""Calibration data of a budget: a limited number of batches, and whether they resemble the rows of the evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.program import Program
from recfx.passes.prune.row_counts import Traffic

#: The most rows of calibration data that are read.
MOST_ROWS = 4096
#: Distributions count as different if their Kolmogorov-Smirnov distance is at least this, and is not by chance.
_FAR = 0.15
_BY_CHANCE = 1e-6

_FORMS = "pass an iterable of batches, each as example_inputs, with or without labels as the last element, such as a DataLoader"


def resources_of(data: Any) -> dict[str, Any]:
    """The resources of passes from the user's calibration data: some thousand rows and, if the data can be read again, all rows.

    Args:
        data: As for `limited`; None for no data.

    Raises:
        InputError: See `limited`.
    """
    if data is None:
        return {}
    found: dict[str, Any] = {"calibration": limited(data)}
    if not isinstance(data, Iterator):
        found["traffic"] = Traffic(_Parts(data) if _is_split(data) else data)
    return found


class _Parts:
    """All rows of a split of `recfx.data`, as batches."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        parts = torch.arange(len(self._data.label)).split(MOST_ROWS)
        return (tuple(self._data.inputs(part)) for part in parts)


def _is_split(data: Any) -> bool:
    return hasattr(data, "label") and callable(getattr(data, "inputs", None))


def limited(data: Any) -> list[Any]:
    """The first batches of calibration data, `MOST_ROWS` rows or a little more.

    Args:
        data: An iterable of batches, or an object with `label` and `inputs(rows)`.

    Raises:
        InputError: There is no batch, or the data has another form.
    """
    if _is_split(data):
        rows = torch.arange(min(len(data.label), MOST_ROWS))
        data = [tuple(data.inputs(some)) for some in rows.split(512)]
    if isinstance(data, Tensor | str | Mapping) or not isinstance(data, Iterable):
        raise InputError(f"calibration= is a {type(data).__name__}, expected an iterable of batches", hint=_FORMS)
    batches, rows_read = [], 0
    for batch in data:
        batches.append(batch)
        rows_read += max(
            (len(leaf) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), default=1
        )
        if rows_read >= MOST_ROWS:
            break
    if not rows_read:
        raise InputError("the calibration data has no rows", where="calibration=", hint=_FORMS)
    return batches


def far_inputs(program: Program, one: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]]) -> list[str]:
    """The inputs whose values are distributed differently in two sets of rows.

    Args:
        program: The program, which names the inputs.
        one: Flat inputs of some batches.
        other: The same of the other rows.
    """
    found = []
    for place, leaf in enumerate(program.signature.leaves):
        pair = [_columns([leaves[place] for leaves in rows]) for rows in (one, other)]
        if pair[0] is None or pair[1] is None or pair[0].shape[1] != pair[1].shape[1]:
            continue
        a, b = pair[0], pair[1]
        limit = max(_FAR, _critical(len(a), len(b)))
        columns = [column for column in range(a.shape[1]) if _distance(a[:, column], b[:, column]) > limit]
        if columns:
            found.append(leaf.name if a.shape[1] == 1 else f"{leaf.name}[:, {columns[0]}]")
    return found


def _columns(batches: Sequence[Any]) -> NDArray[np.float64] | None:
    """The values of an input as a matrix with a column for each of its places; None for an input of another form."""
    if not all(
        isinstance(batch, Tensor) and batch.layout is torch.strided and 0 < batch.ndim <= 2 for batch in batches
    ):
        return None
    tables = [batch.detach().cpu().double().reshape(len(batch), -1) for batch in batches]
    if len({table.shape[1] for table in tables}) != 1:
        return None
    values: NDArray[np.float64] = torch.cat(tables).numpy()
    return values


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    places = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _critical(a: int, b: int) -> float:
    """The distance that samples of one distribution exceed with a probability of about one in a million."""
    return math.sqrt(-math.log(_BY_CHANCE / 2) / 2 * (a + b) / (a * b))
