"""Ids of items: their positions in an index, or int64 numbers of the caller's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recfx.errors import InputError
from recfx.retrieval.store import Store, repeated

#: What a caller may give as embeddings, codes or ids.
Array = Tensor | NDArray[Any]

_WHERE = "ids"
_MOST_RECENT = 4096  # ids that are looked up one by one before all are sorted again


def tensor_of(value: Any) -> Any:
    """A NumPy array as a tensor that shares its memory where torch can read it; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    plain = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("="), copy=False)
    try:
        return torch.from_numpy(plain if plain.flags.writeable else plain.copy())
    except TypeError:
        return value


def like(given: Any, result: Tensor) -> Any:
    """A result as a NumPy array where a caller gave one."""
    return result.numpy() if isinstance(given, np.ndarray) else result


class ItemIds:
    """The ids of the items of an index, by their positions.

    Attributes:
        own: The caller's ids, int64 [positions]; None where ids are positions.
    """

    def __init__(self, own: Tensor | None = None) -> None:
        self.own = own
        self._sorted: tuple[Tensor, Tensor] | None = None
        self._recent: dict[int, int] = {}

    @staticmethod
    def of(ids: Any, items: int) -> ItemIds:
        """The ids that a caller gives to all items of a new index; None for positions.

        Raises:
            InputError: Not `items` different integers, or -1.
        """
        return ItemIds() if ids is None else ItemIds(_own(ids, items).clone())

    def positions(self, ids: Any) -> Tensor:
        """The positions of items, int64 [n]. Where ids are positions, the index itself checks their range.

        Raises:
            InputError: Not integers [n], or ids of no item.
        """
        given = _integers(ids)
        if self.own is None:
            return given
        found = self._find(given)
        if len(found) and int(found.min()) < 0:
            raise InputError(
                f"the item {int(given[found < 0][0])} does not exist",
                where=_WHERE,
                hint="items have the ids that were given to from_embeddings and add; live_ids() lists them",
            )
        return found

    def named(self, positions: Tensor) -> Tensor:
        """The ids at positions; -1 stays -1."""
        if self.own is None:
            return positions
        if not len(self.own):
            return torch.full_like(positions, -1)
        return torch.where(positions < 0, -1, self.own[positions.clamp(min=0)])

    def live(self, ids: Any, store: Store) -> Tensor:
        """The positions of items, int64 [n]; -1 for ids of no item and of deleted items.

        Args:
            ids: Ids, with -1 or others that are not items.
            store: The items of the index.

        Raises:
            InputError: Not integers [n].
        """
        given = _integers(ids)
        found = torch.where((given >= 0) & (given < store.items), given, -1) if self.own is None else self._find(given)
        there = found >= 0
        found[there] = torch.where(store.gone(found[there]), -1, found[there])
        return found

    def copy(self) -> ItemIds:
        """Ids that can be extended without a change of these."""
        made = ItemIds(self.own)  # which is never written to
        made._sorted, made._recent = self._sorted, dict(self._recent)
        return made

    def for_new(self, ids: Any, count: int, store: Store) -> tuple[Tensor | None, Tensor]:
        """The ids of items that join an index, and the positions of those that were deleted before; -1 for the others.

        Args:
            ids: The caller's; None where the index numbers its items.
            count: How many items join.
            store: The items of the index.

        Raises:
            InputError: Ids are missing, or not expected, or of items that exist.
        """
        if self.own is None and ids is not None and not store.items:
            self.own = torch.empty(0, dtype=torch.int64)
        if (self.own is None) != (ids is None):
            what = "numbers its items itself" if self.own is None else "has ids of your own"
            hint = "leave ids= out" if self.own is None else "pass ids=, one for each item"
            raise InputError(f"this index {what}", where="add", hint=hint)
        if ids is None:
            return None, torch.full((count,), -1)
        own = _own(ids, count)
        at = self._find(own)
        there = at >= 0
        if bool(there.any()) and not bool(store.gone(at[there]).all()):
            live = own[there][~store.gone(at[there])]
            raise InputError(
                f"the item {int(live[0])} exists already", where="add", hint="call update for its new values"
            )
        return own, at

    def extend(self, own: Tensor) -> None:
        """Takes the ids of items that were appended."""
        assert self.own is not None
        first = len(self.own)
        self.own = torch.cat([self.own, own])
        if len(self._recent) + len(own) > _MOST_RECENT:
            self._sorted, self._recent = None, {}
        elif self._sorted is not None:
            self._recent.update(zip(own.tolist(), range(first, len(self.own)), strict=True))

    def _find(self, ids: Tensor) -> Tensor:
        """Positions of the caller's ids, -1 for unknown ones."""
        assert self.own is not None
        if self._sorted is None:
            held = self.own.sort()
            self._sorted = held.values, held.indices
        values, places = self._sorted
        if len(values):
            at = torch.searchsorted(values, ids).clamp(max=len(values) - 1)
            found = torch.where(values[at] == ids, places[at], -1)
        else:
            found = torch.full_like(ids, -1)
        if self._recent:
            for row in (found < 0).nonzero()[:, 0].tolist():
                found[row] = self._recent.get(int(ids[row]), -1)
        return found


def _integers(ids: Any) -> Tensor:
    given = tensor_of(ids)
    wrong = not isinstance(given, Tensor) or given.ndim != 1
    if wrong or (given.numel() and (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)):
        got = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else type(ids).__name__
        raise InputError(
            f"ids must be a tensor of integers [n], got {got}",
            where="recfx.retrieval",
            hint="convert them with .long(), without further dimensions",
        )
    plain: Tensor = given.to("cpu", torch.int64).contiguous()
    return plain


def _own(ids: Any, count: int) -> Tensor:
    own = _integers(ids)
    if len(own) != count or repeated(own):
        raise InputError(
            f"{count} items need as many ids, each once; got {len(own)}",
            where=_WHERE,
            hint="pass one id for each item, without repetition",
        )
    if len(own) and bool((own == -1).any()):
        raise InputError(
            "-1 cannot be the id of an item: it stands for no item in the results of a search",
            where=_WHERE,
            hint="give that item another id",
        )
    return own
