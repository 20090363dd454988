"""Items that a query must not find, such as those its user has seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recfx.errors import InputError

#: One tensor of ids for each query, or compressed rows: the position where each query's ids begin, [Q + 1], and all
#: ids.
Exclude = Sequence[Tensor] | tuple[Tensor, Tensor]

_WHERE = "exclude"


def compressed(exclude: Exclude, queries: int, items: int) -> tuple[Tensor, Tensor]:
    """Excluded items as compressed rows, int64, the ids ascending within a query.

    Args:
        exclude: A tuple of compressed rows, or any other sequence with one tensor of ids for each query.
        queries: The number of queries.
        items: The number of items; all ids are below it.

    Raises:
        InputError: The number of rows is wrong, ids are floating-point numbers, an id is not an item, or row starts
            fall.
    """
    starts, ids = _rows(exclude, queries) if isinstance(exclude, tuple) else _lists(exclude, queries)
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= items):
        bad = int(ids[(ids < 0) | (ids >= items)][0])
        raise InputError(
            f"id {bad} is to be left out, but items are 0 to {items - 1}",
            where=_WHERE,
            hint="remove the ids that are not ids of items",
        )
    keys = torch.repeat_interleave(torch.arange(queries), starts.diff()) * max(items, 1) + ids
    if bool((keys.diff() < 0).any()):
        ids = ids[keys.argsort()]
    return starts.contiguous(), ids.contiguous()


def _integers(tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise InputError(
            f"ids to leave out must be tensors, not {type(tensor).__name__}",
            where=_WHERE,
            hint="convert them with torch.as_tensor",
        )
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
    if tensor.ndim != 1 or (tensor.numel() and not whole):
        raise InputError(
            f"ids to leave out must be integers [n], got {tensor.dtype} {list(tensor.shape)}",
            where=_WHERE,
            hint="convert them with .long(), without further dimensions",
        )
    return tensor.to("cpu", torch.int64)


def _rows(exclude: tuple[Tensor, ...], queries: int) -> tuple[Tensor, Tensor]:
    if len(exclude) != 2:
        raise InputError(
            f"compressed rows are a tuple of row starts and ids, not of {len(exclude)} tensors",
            where=_WHERE,
            hint="pass one tensor for each query as a list",
        )
    starts, ids = map(_integers, exclude)
    if len(starts) != queries + 1:
        raise InputError(
            f"{queries} queries need {queries + 1} row starts, got {len(starts)}",
            where=_WHERE,
            hint="pass the row pointers of a CSR matrix: one for each row and one more",
        )
    if int(starts[0]) != 0 or int(starts[-1]) != len(ids) or bool((starts.diff() < 0).any()):
        raise InputError(
            f"row starts must rise from 0 to the number of ids, {len(ids)}",
            where=_WHERE,
            hint="pass the row pointers of a CSR matrix: one for each row and one more",
        )
    return starts, ids


def _lists(exclude: Sequence[Tensor], queries: int) -> tuple[Tensor, Tensor]:
    rows = [_integers(row) for row in exclude]
    if len(rows) != queries:
        raise InputError(
            f"there are {queries} queries and {len(rows)} lists of ids",
            where=_WHERE,
            hint="pass one list for each query",
        )
    lengths = torch.tensor([0, *map(len, rows)])
    return lengths.cumsum(0), torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
