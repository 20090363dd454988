"""The items of an index: they can be counted, read, added, replaced and deleted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.retrieval import grid as grids
from recfx.retrieval.encoding import round_items
from recfx.retrieval.item_ids import Array, ItemIds, like, tensor_of
from recfx.retrieval.options import Form, Metric, checked_size
from recfx.retrieval.packing import rows_of, unpack
from recfx.retrieval.store import Store, repeated

_WHERE = "recfx.retrieval.Index"


class Items:
    """Items as codes, with ids.

    Attributes:
        bits: See `recfx.retrieval.Index`.
        dim: Likewise.
        metric: Likewise.
        query_bits: Likewise.
    """

    def __init__(
        self,
        store: Store,
        bits: int,
        metric: Metric,
        query_bits: int,
        *,
        undecided: bool = False,
        ids: ItemIds | None = None,
    ) -> None:
        self._store = store
        self._ids = ids or ItemIds()
        self._undecided = undecided  # the kind of rows is undecided until the first items
        self.dim = store.dim
        self.bits = bits
        self.metric: Metric = metric
        self.query_bits = query_bits

    def __len__(self) -> int:
        """The number of items that were not deleted."""
        return len(self._store)

    @property
    def next_id(self) -> int:
        """The id of the next added item. The ids of deleted items are not used again."""
        return self._store.items

    @property
    def scales(self) -> grids.Kind:
        """The codes that share constants: all codes of the `table`, those of a `row` (`symmetric`: with levels
        symmetric about zero), or those of a `dimension`."""
        return self._store.grid.kind

    @property
    def nbytes(self) -> int:
        """Bytes of codes and constants."""
        return self._store.nbytes

    def codes(self, ids: Array | None = None) -> Tensor:
        """The codes of items, by default of all items, uint8 [n, d]."""
        return unpack(rows_of(self._store.blocks, self._chosen(ids)), self.dim, self.bits)

    def decode(self, ids: Array | None = None) -> Tensor:
        """The values of items' codes, by default of all items, float32 [n, d]."""
        chosen = self._chosen(ids)
        codes = unpack(rows_of(self._store.blocks, chosen), self.dim, self.bits)
        return self._store.grid.rows(chosen).decode(codes)

    def add(
        self, items: Array, lower: Tensor | None = None, step: Tensor | None = None, *, ids: Array | None = None
    ) -> Any:
        """Adds items and returns their ids, int64 [n].

        When rows with two constants join symmetric rows, all rows get two constants; embeddings added later are rounded with two constants.

        Args:
            items: Embeddings, which are rounded to the grid of the table or dimension or to grids of their own rows, or
                codes, uint8.
            lower: With codes on grids of their own rows, their constants [n, 1].
            step: Likewise.
            ids: Your own ids of the items, where the index has such ids. Items that were deleted may come back.

        Raises:
            InputError: As in `from_embeddings` and `from_codes`; or ids are missing, not expected, or of items that exist.
        """
        words, grid = self._rounded(items, lower, step)
        checked_size(self.next_id + len(words), self.dim)
        own, at = self._ids.for_new(ids, len(words), self._store)
        new = at < 0
        if bool(new.all()):
            at = self._store.append(words, grid)
        else:
            self._store.write(at[~new], words[~new], grid.rows(~new))
            at[new] = self._store.append(words[new], grid.rows(new))
        if own is None:
            return like(items, at)
        self._ids.extend(own[new])
        return like(items, own)

    def update(self, ids: Array, items: Array, lower: Tensor | None = None, step: Tensor | None = None) -> None:
        """Gives items new values, in the forms that `add` takes; deleted items come back.

        Raises:
            InputError: As in `add`; or an id is not an item or is given twice, or the number of ids is not that of items.
        """
        chosen = self._known(ids)
        words, grid = self._rounded(items, lower, step)
        if len(chosen) != len(words) or repeated(chosen):
            raise InputError(
                f"{len(words)} items need as many ids, each once; got {len(chosen)}",
                where=_WHERE,
                hint="pass one id for each item, without repetition",
            )
        self._store.write(chosen, words, grid)

    def delete(self, ids: Array) -> None:
        """Deletes items: no search finds them. Ids that the index gave are not given again.

        Raises:
            InputError: An id is not an item, or its item is already deleted.
        """
        self._store.delete(self._known(ids))

    def live_ids(self) -> Tensor:
        """The ids of items that are not deleted, int64 [n]."""
        return self._ids.named(self._store.live_ids())

    @property
    def own_ids(self) -> bool:
        """Whether items have ids that the caller gave."""
        return self._ids.own is not None

    def positions(self, ids: Array) -> Tensor:
        """The positions of items in the order in which they were added, int64 [n]; -1 for ids of no item and of deleted items.

        Raises:
            InputError: Not integers [n].
        """
        return self._ids.live(ids, self._store)

    def _known(self, ids: Array) -> Tensor:
        return self._store.known(self._ids.positions(ids))

    def _chosen(self, ids: Array | None) -> Tensor:
        return torch.arange(self.next_id) if ids is None else self._known(ids)

    def _rounded(self, items: Array, lower: Tensor | None, step: Tensor | None) -> tuple[Tensor, grids.Grid]:
        undecided = self._undecided and not self.next_id
        return round_items(tensor_of(items), lower, step, self._store.grid, self._form, undecided=undecided)

    @property
    def _form(self) -> Form:
        return Form(self.dim, self.bits, self.metric, self.query_bits)
