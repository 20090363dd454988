"""Search in two stages: the first finds a shortlist by few bits, and the second scores its items again by more precise
rows. The length of the shortlist is given, measured on held-out queries (`calibrate`), or determined by an error bound
(`shortlist="bound"`). That bound: with r the largest distance of an item from the value of its codes, x the greatest
length of such a value, and q' the rounded query in place of q,

    |<q, item> - score of the first stage| <= ||q|| r + ||q - q'|| x

by the Cauchy-Schwarz inequality. If the k-th best exact score of a shortlist exceeds its last first-stage score by more
than that, no item outside the shortlist can be among the k best.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.progress import progress
from recfx.retrieval import grid as grids
from recfx.retrieval import two_stage_files
from recfx.retrieval.bound import Reach, reach
from recfx.retrieval.calls import Allow, answer, checked_k, described, positions_of
from recfx.retrieval.exclusion import Exclude
from recfx.retrieval.fitting import better_rows
from recfx.retrieval.index import Index
from recfx.retrieval.item_ids import Array, ItemIds, like, tensor_of
from recfx.retrieval.options import checked_options
from recfx.retrieval.rescoring import KINDS, Rescore, Rows
from recfx.retrieval.second_stage import FIRST, SecondStage, ranks_in

_WHERE = "recfx.retrieval.TwoStageIndex"


class TwoStageIndex:
    """An index of few bits, and rows that score its shortlists.

    Attributes:
        first: The index of the first stage, which numbers items by their positions. Change items by the methods of this class.
        shortlist: How many items the second stage scores for each query; None before `calibrate`.
    """

    def __init__(self, first: Index, rows: Rows, items: Reach, ids: ItemIds | None = None) -> None:
        self.first = first
        self.shortlist: int | None = None
        self._stages = SecondStage(first, rows, items)
        self._ids = ids or ItemIds()

    @staticmethod
    def from_embeddings(
        items: Array,
        bits: int = 1,
        rescore: Rescore = "float32",
        metric: Literal["ip", "cosine"] = "ip",
        *,
        scales: grids.Kind | None = None,
        query_bits: int = 8,
        ids: Array | None = None,
    ) -> TwoStageIndex:
        """Rounds embeddings for the first stage, and stores more precise rows for the second.

        Args:
            items: Floating point [n, d].
            bits: Bits of the first stage: 1, 2, 4 or 8.
            rescore: The dtype of the second stage's rows. With `int8`, rows have scales of their own and queries 8
                bits.
            metric: `ip` or `cosine`.
            scales: As in `Index.from_embeddings`; by default `symmetric` or `row`, whichever has the smaller error on
                these items.
            query_bits: As in `Index.from_embeddings`; 8 by default, because signs of a query need longer shortlists.
            ids: Your own ids of the items, n different int64 other than -1; by default their positions.

        Raises:
            InputError: As in `Index.from_embeddings`; or float16 cannot hold the numbers, or `rescore` is unknown.
        """
        if metric not in ("ip", "cosine") or rescore not in KINDS:
            raise InputError(
                f"search in two stages by {metric!r} with rows of {rescore!r} is not supported",
                where=_WHERE,
                hint="pass one of the metrics and rows that the docstring of TwoStageIndex lists",
            )
        values = grids.checked(tensor_of(items), None, "items")
        if metric == "cosine":
            values = torch.nn.functional.normalize(values, dim=1)
        checked_options(bits, metric, scales or "row", query_bits)
        # Scales per row, so that the lengths of items count in the ranking.
        kind = scales or better_rows(values, bits)
        first = Index.from_embeddings(values, bits, metric, scales=kind, query_bits=query_bits)
        rows = Rows.of(values, rescore)
        items_reach = reach(first, torch.arange(len(values)), rows.exact(values))
        return TwoStageIndex(first, rows, items_reach, ItemIds.of(ids, len(values)))

    def __len__(self) -> int:
        """Items."""
        return len(self.first)

    @property
    def nbytes(self) -> int:
        """Bytes of both stages."""
        return self.first.nbytes + self._stages.rows.nbytes

    def __repr__(self) -> str:
        first = self.first
        options = [
            f"{first.bits} bits, then {self._stages.rows.kind}",
            f"metric={first.metric!r}",
            f"shortlist={self.shortlist}",
        ]
        return described("TwoStageIndex", len(self), first.dim, options)

    @property
    def next_id(self) -> int:
        """The position of the next item added, which is its id where the index numbers its items."""
        return self.first.next_id

    def add(self, items: Array, *, ids: Array | None = None) -> Any:
        """Adds items and returns their ids, int64 [n].

        Args:
            items: Embeddings, floating point [n, d].
            ids: Your own ids of the items, where the index has such ids. Items that were deleted may come back.

        Raises:
            InputError: As in `from_embeddings`; or ids are missing, not expected, or of items that exist.
        """
        values = self._values(items)
        own, at = self._ids.for_new(ids, len(values), self.first._store)
        new = at < 0
        at[new] = torch.arange(self.next_id, self.next_id + int(new.sum()))
        rows = self._stages.rows.rounded(values)
        self._stages.rows.write(at, rows)
        self.first.add(values[new])
        self.first.update(at[~new], values[~new])
        self._stages.reach = self._stages.reach.widened(reach(self.first, at, self._stages.rows.exact(values)))
        if own is None:
            return like(items, at)
        self._ids.extend(own[new])
        return like(items, own)

    def update(self, ids: Array, items: Array) -> None:
        """Gives items new values; deleted items come back.

        Raises:
            InputError: As in `add`; or an id is not an item or is given twice, or the number of ids is not that of items.
        """
        chosen, values = self.first._store.known(self._ids.positions(ids)), self._values(items)
        rows = self._stages.rows.rounded(values)
        self.first.update(chosen, values)
        self._stages.rows.write(chosen, rows)
        self._stages.reach = self._stages.reach.widened(reach(self.first, chosen, self._stages.rows.exact(values)))

    def delete(self, ids: Array) -> None:
        """Deletes items: no search finds them. Ids that the index gave are not given again.

        Raises:
            InputError: An id is not an item, or its item is already deleted.
        """
        self.first.delete(self._ids.positions(ids))

    def live_ids(self) -> Tensor:
        """The ids of items that are not deleted, int64 [n]."""
        return self._ids.named(self.first.live_ids())

    @property
    def own_ids(self) -> bool:
        """Whether items have ids that the caller gave."""
        return self._ids.own is not None

    def positions(self, ids: Array) -> Tensor:
        """See `Index.positions`."""
        return self._ids.live(ids, self.first._store)

    def copy(self) -> TwoStageIndex:
        """An index of the same items, whose changes leave this one as it is."""
        stages = self._stages
        made = TwoStageIndex(self.first.copy(), stages.rows.copy(), stages.reach, self._ids.copy())
        made.shortlist = self.shortlist
        return made

    def save(self, path: str | PathLike[str]) -> None:
        """Writes both stages as a folder; see `recfx.retrieval.two_stage_files`."""
        saved = two_stage_files.Saved(self.first, self._stages.rows, self._ids, self._stages.reach, self.shortlist)
        two_stage_files.save(saved, path)

    @staticmethod
    def load(path: str | PathLike[str], *, check: bool = True) -> TwoStageIndex:
        """Maps a saved index into memory; changes stay in memory. With `check`, the checksums of the arrays are compared too.

        Raises:
            ArtifactError: The folder is missing, damaged, cut short, or of an unknown format version.
        """
        saved = two_stage_files.load(path, check=check)
        made = TwoStageIndex(saved.first, saved.rows, saved.reach, saved.ids)
        made.shortlist = saved.shortlist
        return made

    def search(
        self,
        queries: Array,
        k: int,
        exclude: Exclude | None = None,
        allow: Allow | None = None,
        *,
        shortlist: int | Literal["bound"] | None = None,
    ) -> tuple[Any, Any]:
        """The k best items of each query by the rows of the second stage, among a shortlist.

        Args:
            queries: Floating point [Q, d], or one query [d]; NumPy arrays give NumPy arrays.
            k: The number of items to find, at least 1.
            exclude: See `Index.search`.
            allow: Likewise.
            shortlist: Its length, at least k; `bound` for a length that guarantees the k best items, which needs float
                rows. By default the length that `calibrate` chose.

        Returns:
            Scores, float32 [Q, k], and ids, int64 [Q, k], as `Index.search`.

        Raises:
            InputError: As in `Index.search`; or no length was chosen, it is below k, or `bound` was passed with int8
                rows.
        """
        chosen = shortlist if shortlist is not None else self.shortlist
        if chosen is None:
            raise InputError("no shortlist was chosen", where=_WHERE, hint="call calibrate, or pass shortlist=")
        return answer(self._stages.run_by(chosen), self._ids, self.first._store, queries, k, exclude, allow, _WHERE)

    def calibrate(self, queries: Array, k: int, recall: float = 0.99, exclude: Exclude | None = None) -> int:
        """Chooses the shortest list that keeps a share of the k best items of held-out queries.

        Each of their k best items, by the rows of the second stage, has a rank in the first stage. The shortlist is
        just long enough to include the required share of these ranks.

        Args:
            queries: Floating point [Q, d]: queries like those of later searches, but not the queries that measure the
                recall.
            k: The number of items that searches will find.
            recall: The share of the k best items that the shortlist must hold, on average over the queries, above 0 and at most 1.
            exclude: See `Index.search`.

        Returns:
            The length, which searches then use by default.

        Raises:
            InputError: There are no queries or no items, or the recall is out of range.
        """
        k = checked_k(k, _WHERE)
        if not 0 < recall <= 1 or not len(queries) or not len(self):
            raise InputError(
                "calibration needs items, queries and a recall above 0 and at most 1",
                where=_WHERE,
                hint="pass queries [Q, d] like those of later searches",
            )
        values = self._stages.asked(tensor_of(queries))
        exclude = positions_of(exclude, self._ids, one=False)
        wanted = self._stages.exact(values, k, exclude)
        real = wanted >= 0
        allowed = int((1 - recall) * int(real.sum()) + 1e-9)  # the number of items that may be missed
        length = FIRST * k
        with progress("measuring the shortlist", len(self)) as advance:
            while True:
                length = min(length, len(self))
                listed = self.first._find(values, length, exclude)[1]
                ranks = ranks_in(listed, wanted)[real].sort().values
                advance(length)
                needed = int(ranks[len(ranks) - allowed - 1]) + 1 if len(ranks) > allowed else k
                if needed <= length or length == len(self):
                    break
                length *= 4
        self.shortlist = max(k, min(needed, len(self)))
        return self.shortlist

    def _values(self, items: Array) -> Tensor:
        """Embeddings as both stages take them, float32 [n, d]."""
        values = grids.checked(tensor_of(items), self.first.dim, "items")
        return torch.nn.functional.normalize(values, dim=1) if self.first.metric == "cosine" else values
