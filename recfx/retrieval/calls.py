"""Calls of a search as users make them: NumPy or torch, one query or many, ids of their own, items left out and items allowed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.retrieval.exclusion import Exclude, compressed
from recfx.retrieval.item_ids import Array, ItemIds, like, tensor_of
from recfx.retrieval.store import Store

#: Items that may be found: ids for all queries, or for each query as `Exclude` has them.
Allow = Array | Sequence[Array] | tuple[Array, Array]

_MOST_K = 1 << 31


class Run(Protocol):
    """Finds the best items of queries: scores, float32 [Q, k], and positions, int64 [Q, k]."""

    def __call__(
        self, queries: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Searches.

        Args:
            queries: [Q, d].
            k: How many.
            exclude: Positions to leave out of each query.
            hidden: A bit for each item that no query finds, int64; None for those that are deleted.
        """


def checked_k(k: Any, where: str) -> int:
    """k as an integer.

    Raises:
        InputError: Not an integer of at least 1.
    """
    if type(k) is int and 1 <= k < _MOST_K:
        return k
    try:
        number = operator.index(k)
    except TypeError:
        number = 0
    if isinstance(k, bool) or not 1 <= number < _MOST_K:
        raise InputError(
            f"k must be at least 1, not {k!r}"
            if isinstance(k, int) and not isinstance(k, bool) and k < 1
            else f"k must be an integer from 1 to {_MOST_K - 1:,}, not {k!r}",
            where=where,
            hint="pass the number of items to find for each query",
        )
    return number


def answer(
    run: Run, ids: ItemIds, store: Store, queries: Any, k: Any, exclude: Any, allow: Any, where: str
) -> tuple[Any, Any]:
    """Searches for queries as a caller gives them.

    Args:
        run: The search.
        ids: The ids of the items.
        store: The items.
        queries: [Q, d], or one query [d]; NumPy arrays give NumPy arrays.
        k: How many.
        exclude: See `Index.search`.
        allow: Likewise.
        where: The class, for errors.

    Returns:
        Scores [Q, k] and ids [Q, k]; [k] of one query.

    Raises:
        InputError: See `Index.search`.
    """
    number = checked_k(k, where)
    if type(queries) is Tensor and exclude is allow is ids.own is None and queries.ndim != 1:
        return run(queries, number, None, None)  # what a single query on warm caches would notice is left out
    rows = tensor_of(queries)
    one = isinstance(rows, Tensor) and rows.ndim == 1
    if one:
        rows = rows[None]
    left_out = positions_of(exclude, ids, one)
    if allow is None:
        scores, found = run(rows, number, left_out, None)
    else:
        scores, found = _among(run, ids, store, rows, number, left_out, allow, one)
    found = ids.named(found)
    if one:
        scores, found = scores[0], found[0]
    return like(queries, scores), like(queries, found)


def positions_of(sets: Any, ids: ItemIds, one: bool) -> Any:
    """Sets of ids as sets of positions, in the same form."""
    if sets is None:
        return None
    if one and not isinstance(sets, list | tuple):
        sets = [sets]  # of one query
    if isinstance(sets, tuple):
        return tuple(tensor_of(part) if place != 1 else _known(part, ids) for place, part in enumerate(sets))
    if isinstance(sets, Sequence):
        return [_known(part, ids) for part in sets]
    return sets  # refused by `compressed`


def _known(part: Any, ids: ItemIds) -> Any:
    given = tensor_of(part)
    return ids.positions(given) if ids.own is not None else given


def _among(
    run: Run, ids: ItemIds, store: Store, rows: Tensor, k: int, exclude: Any, allow: Any, one: bool
) -> tuple[Tensor, Tensor]:
    """Searches among allowed items: the others are hidden as deleted ones are."""
    if not isinstance(allow, list | tuple):
        return run(rows, k, exclude, store.hidden_but(store.known(ids.positions(allow))))
    starts, allowed = compressed(positions_of(allow, ids, one), len(rows), store.items)
    outside = None if exclude is None else compressed(exclude, len(rows), store.items)
    found = []
    for row in range(len(rows)):
        mine = allowed[starts[row] : starts[row + 1]]
        rest = None if outside is None else [outside[1][outside[0][row] : outside[0][row + 1]]]
        found.append(run(rows[row : row + 1], k, rest, store.hidden_but(mine)))
    if not found:
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    scores, positions = zip(*found, strict=True)
    return torch.cat(scores), torch.cat(positions)


def described(kind: str, items: int, dim: int, parts: Sequence[str]) -> str:
    """The text of an index: its class, its size and its options."""
    return f"{kind}({items:,} items of {dim} dimensions, {', '.join(parts)})"
