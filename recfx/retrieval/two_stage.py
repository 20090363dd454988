"""Search in two stages: the first finds a shortlist by few bits, and the second scores its items again by more precise
rows. The length of the shortlist is given, measured on held-out queries (`calibrate`), or determined by an error bound
(`shortlist="bound"`). That bound: with r the largest distance of an item from the value of its codes, x the greatest
length of such a value, and q' the rounded query in place of q,

    |<q, item> - score of the first stage| <= ||q|| r + ||q - q'|| x

by the Cauchy-Schwarz inequality. If the k-th best exact score of a shortlist exceeds its last first-stage score by more
than that, no item outside the shortlist can be among the k best.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels import huge_pages
from recfx.kernels.library import missing
from recfx.kernels.searches import rescore
from recfx.progress import progress
from recfx.retrieval import grid as grids
from recfx.retrieval import reference
from recfx.retrieval.exclusion import Exclude, compressed
from recfx.retrieval.fitting import better_rows, fit
from recfx.retrieval.index import Index
from recfx.retrieval.options import checked_options
from recfx.retrieval.queries import rounded
from recfx.retrieval.rounding import round_rows

Rescore = Literal["float32", "float16", "int8"]

_WHERE = "recfx.retrieval.TwoStageIndex"
_ROUNDING = 1e-5  # error of float32 sums, relative to the lengths of query and item
_BLOCK_VALUES = 1 << 22
_FIRST = 4  # the bound and the calibration first try a shortlist of this number times k


class TwoStageIndex:
    """An index of few bits, and rows that score its shortlists.

    Attributes:
        first: The index of the first stage; its items must not change.
        shortlist: How many items the second stage scores for each query; None before `calibrate`.
    """

    def __init__(self, first: Index, rows: Tensor, affine: grids.Grid | None, reach: tuple[float, float]) -> None:
        self.first = first
        self.shortlist: int | None = None
        self._rows = rows
        self._affine = affine
        self._error: float = reach[0]
        self._longest: float = reach[1]
        huge_pages.move_tables([rows])

    @staticmethod
    def from_embeddings(
        items: Tensor,
        bits: int = 1,
        rescore: Rescore = "float32",
        metric: Literal["ip", "cosine"] = "ip",
        *,
        scales: grids.Kind | None = None,
        query_bits: int = 8,
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

        Raises:
            InputError: As in `Index.from_embeddings`; or float16 cannot hold the numbers, or `rescore` is unknown.
        """
        if metric not in ("ip", "cosine") or rescore not in ("float32", "float16", "int8"):
            raise InputError(
                f"search in two stages by {metric!r} with rows of {rescore!r} is not supported", where=_WHERE
            )
        values = grids.checked(items, None, "items")
        if metric == "cosine":
            values = torch.nn.functional.normalize(values, dim=1)
        checked_options(bits, metric, scales or "row", query_bits)
        # Scales per row, so that the lengths of items count in the ranking.
        kind = scales or better_rows(values, bits)
        first = Index.from_embeddings(values, bits, metric, scales=kind, query_bits=query_bits)
        rows, affine = values, None
        if rescore == "float16":
            rows = values.half()
            if not bool(rows.isfinite().all()):
                raise InputError("items do not fit into float16", where=_WHERE, hint="pass rescore='float32' or 'int8'")
        elif rescore == "int8":
            affine = fit(values, 8, "row").grid
            rows = affine.encode(values, 8)
        elif values.data_ptr() == items.data_ptr():
            rows = values.clone()  # a copy, so that later changes of the caller's tensor do not change the index
        return TwoStageIndex(first, rows, affine, _reach(first, rows.float() if affine is None else values))

    def __len__(self) -> int:
        """Items."""
        return len(self.first)

    @property
    def nbytes(self) -> int:
        """Bytes of both stages."""
        constants = 0 if self._affine is None else 8 * len(self._rows)
        return self.first.nbytes + self._rows.numel() * self._rows.element_size() + constants

    def search(
        self,
        queries: Tensor,
        k: int,
        exclude: Exclude | None = None,
        *,
        shortlist: int | Literal["bound"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k best items of each query by the rows of the second stage, among a shortlist.

        Args:
            queries: Floating point [Q, d].
            k: The number of items to find, at least 1.
            exclude: See `Index.search`.
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
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}", where=_WHERE)
        if chosen == "bound":
            if self._affine is not None:
                raise InputError(
                    "shortlist='bound' needs exact scores, which int8 rows do not give",
                    where=_WHERE,
                    hint="build the index with rescore='float32' or 'float16', or pass a length",
                )
            return self._search_certain(self._asked(queries), k, exclude)
        if not isinstance(chosen, int) or chosen < k:
            raise InputError(
                f"the shortlist must be an integer of at least k = {k}, or 'bound', not {chosen!r}", where=_WHERE
            )
        # The first stage checks the numbers of queries that it reads unchanged.
        cosine = self.first.metric == "cosine"
        values = self._asked(queries) if cosine else grids.plain(queries, self.first.dim, "queries")
        listed = self.first.shortlist(values, min(chosen, max(len(self), 1)), exclude)
        return self._rescored(values, listed, k)

    def calibrate(self, queries: Tensor, k: int, recall: float = 0.99, exclude: Exclude | None = None) -> int:
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
        if not 0 < recall <= 1 or not len(queries) or not len(self):
            raise InputError("calibration needs items, queries and a recall above 0 and at most 1", where=_WHERE)
        values = self._asked(queries)
        wanted = self._exact(values, k, exclude)
        real = wanted >= 0
        allowed = int((1 - recall) * int(real.sum()) + 1e-9)  # the number of items that may be missed
        length = _FIRST * k
        with progress("measuring the shortlist", len(self)) as advance:
            while True:
                length = min(length, len(self))
                listed = self.first.search(values, length, exclude)[1]
                ranks = _ranks(listed, wanted)[real].sort().values
                advance(length)
                needed = int(ranks[len(ranks) - allowed - 1]) + 1 if len(ranks) > allowed else k
                if needed <= length or length == len(self):
                    break
                length *= 4
        self.shortlist = max(k, min(needed, len(self)))
        return self.shortlist

    def _asked(self, queries: Tensor) -> Tensor:
        values = grids.checked(queries, self.first.dim, "queries")
        return torch.nn.functional.normalize(values, dim=1) if self.first.metric == "cosine" else values

    def _rescored(self, values: Tensor, listed: Tensor, k: int) -> tuple[Tensor, Tensor]:
        run: Any = rescore if missing() is None else reference.rescore
        if self._affine is None:
            scores, ids = run(self._rows, values, listed, k)
            return scores, ids
        asked = rounded(values, values.shape[1])
        scores, ids = run(self._rows, asked.rows, listed, k, affine=(self._affine.step, self._affine.lower, asked.sums))
        return scores * asked.gain[:, None], ids

    def _exact(self, values: Tensor, k: int, exclude: Exclude | None) -> Tensor:
        """The k best items by the rows of the second stage, int64 [Q, k]."""
        everything = torch.arange(len(self))
        found = []
        starts = compressed(exclude, len(values), len(self)) if exclude is not None else None
        for row in range(len(values)):
            listed = everything
            if starts is not None:
                listed = everything.clone()
                listed[starts[1][starts[0][row] : starts[0][row + 1]]] = -1
            found.append(self._rescored(values[row : row + 1], listed[None].contiguous(), k)[1])
        return torch.cat(found)

    def _search_certain(self, values: Tensor, k: int, exclude: Exclude | None) -> tuple[Tensor, Tensor]:
        starts, left_out = compressed(exclude, len(values), len(self)) if exclude is not None else (None, None)
        scores, ids = torch.full((len(values), k), -torch.inf), torch.full((len(values), k), -1)
        slack = self._slack(values)
        open_rows, length = torch.arange(len(values)), _FIRST * k
        while len(open_rows):
            length = min(length, max(len(self), 1))
            rest: Exclude | None = None
            if starts is not None and left_out is not None:
                rest = [left_out[starts[row] : starts[row + 1]] for row in open_rows.tolist()]
            rough, listed = self.first.search(values[open_rows], length, rest)
            scores[open_rows], ids[open_rows] = self._rescored(values[open_rows], listed, k)
            certain = rough[:, -1] + slack[open_rows] < scores[open_rows, -1]
            certain |= (listed[:, -1] < 0) | torch.tensor(length >= len(self))
            open_rows, length = open_rows[~certain], length * 4
        return scores, ids

    def _slack(self, values: Tensor) -> Tensor:
        """The bound of the difference between an exact score and a first-stage score, float32 [Q]."""
        near: Tensor = values.norm(dim=1) * (self._error + _ROUNDING * self._longest)
        if self.first.query_bits == 1:
            magnitude = values.abs().mean(1, keepdim=True)
            stands_for = torch.where(values > 0, magnitude, -magnitude)
        elif self.first._store.grid.kind == "dimension":
            steps = self.first._store.grid.step
            numbers, unit = round_rows(values * steps)
            levels = (1 << self.first.bits) - 1
            away: Tensor = (values * steps - numbers * unit).norm(dim=1) * levels * self.first.dim**0.5
            total: Tensor = near + away
            return total
        else:
            numbers, unit = round_rows(values)
            stands_for = numbers * unit
        apart: Tensor = (values - stands_for).norm(dim=1)
        return near + apart * self._longest


def _reach(first: Index, rows: Tensor) -> tuple[float, float]:
    """The largest distance of an item from the value of its codes, and the greatest length of such a value."""
    away = longest = 0.0
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        some = torch.arange(start, min(start + step, len(rows)))
        stands_for = first.decode(some)
        away = max(away, _greatest((rows[some] - stands_for).norm(dim=1)))
        longest = max(longest, _greatest(stands_for.norm(dim=1)))
    return away, longest


def _greatest(lengths: Tensor) -> float:
    return float(lengths.max()) if len(lengths) else 0.0


def _ranks(listed: Tensor, wanted: Tensor) -> Tensor:
    """The position of each wanted item in its list, int64 of the shape of `wanted`; at or beyond the list's end if it
    is absent."""
    order = listed.sort(dim=1)
    at = torch.searchsorted(order.values, wanted).clamp(max=listed.shape[1] - 1)
    there = order.values.gather(1, at) == wanted
    return torch.where(there, order.indices.gather(1, at), listed.shape[1])
