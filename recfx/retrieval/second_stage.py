"""The second stage of a search: shortlists of the first, scored again by better rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels.library import missing
from recfx.kernels.searches import rescore
from recfx.retrieval import grid as grids
from recfx.retrieval import reference
from recfx.retrieval.bound import Reach, slack
from recfx.retrieval.calls import Run
from recfx.retrieval.exclusion import Exclude, compressed
from recfx.retrieval.index import Index
from recfx.retrieval.queries import rounded
from recfx.retrieval.rescoring import Rows

_WHERE = "recfx.retrieval.TwoStageIndex"
FIRST = 4  # the bound and the calibration first try a shortlist of this number times k


@dataclasses.dataclass
class SecondStage:
    """Both stages of a search, whose items are numbered by their positions.

    Attributes:
        first: The first stage.
        rows: The rows that score its shortlists.
        reach: What the bound depends on.
    """

    first: Index
    rows: Rows
    reach: Reach

    def run_by(self, chosen: Any) -> Run:
        """The search by a shortlist of a length, or by the bound."""
        if chosen == "bound" and self.rows.affine is not None:
            raise InputError(
                "shortlist='bound' needs exact scores, which int8 rows do not give",
                where=_WHERE,
                hint="build the index with rescore='float32' or 'float16', or pass a length",
            )

        def run(queries: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
            if chosen == "bound":
                return self._search_certain(self.asked(queries), k, exclude, hidden)
            if isinstance(chosen, bool) or not isinstance(chosen, int) or chosen < k:
                raise InputError(
                    f"the shortlist must be an integer of at least k = {k}, or 'bound', not {chosen!r}",
                    where=_WHERE,
                    hint="pass shortlist='bound' or a number of at least k",
                )
            # The first stage checks the numbers of queries that it reads unchanged.
            cosine = self.first.metric == "cosine"
            values = self.asked(queries) if cosine else grids.plain(queries, self.first.dim, "queries")
            listed = self.first._list(values, min(chosen, max(len(self.first), 1)), exclude, hidden)
            return self._rescored(values, listed, k)

        return run

    def asked(self, queries: Tensor) -> Tensor:
        """Queries as both stages take them, float32 [Q, d]."""
        values = grids.checked(queries, self.first.dim, "queries")
        return torch.nn.functional.normalize(values, dim=1) if self.first.metric == "cosine" else values

    def _rescored(self, values: Tensor, listed: Tensor, k: int) -> tuple[Tensor, Tensor]:
        run: Any = rescore if missing() is None else reference.rescore
        rows, affine = self.rows.values, self.rows.affine
        if affine is None:
            scores, ids = run(rows, values, listed, k)
            return scores, ids
        asked = rounded(values, values.shape[1])
        scores, ids = run(rows, asked.rows, listed, k, affine=(affine.step, affine.lower, asked.sums))
        return scores * asked.gain[:, None], ids

    def exact(self, values: Tensor, k: int, exclude: Exclude | None) -> Tensor:
        """The k best items by the rows of the second stage, int64 [Q, k]."""
        everything = self.first.live_ids()
        found = []
        starts = compressed(exclude, len(values), self.first.next_id) if exclude is not None else None
        for row in range(len(values)):
            listed = everything
            if starts is not None:
                out = starts[1][starts[0][row] : starts[0][row + 1]]
                listed = torch.where(torch.isin(everything, out), -1, everything)
            found.append(self._rescored(values[row : row + 1], listed[None].contiguous(), k)[1])
        return torch.cat(found)

    def _search_certain(
        self, values: Tensor, k: int, exclude: Exclude | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        starts, left_out = compressed(exclude, len(values), self.first.next_id) if exclude is not None else (None, None)
        scores, ids = torch.full((len(values), k), -torch.inf, dtype=torch.float32), torch.full((len(values), k), -1)
        apart = slack(self.first, self.reach, values)
        open_rows, length = torch.arange(len(values)), FIRST * k
        while len(open_rows):
            length = min(length, max(len(self.first), 1))
            rest: Exclude | None = None
            if starts is not None and left_out is not None:
                rest = [left_out[starts[row] : starts[row + 1]] for row in open_rows.tolist()]
            rough, listed = self.first._find(values[open_rows], length, rest, hidden)
            scores[open_rows], ids[open_rows] = self._rescored(values[open_rows], listed, k)
            certain = rough[:, -1] + apart[open_rows] < scores[open_rows, -1]
            certain |= (listed[:, -1] < 0) | torch.tensor(length >= len(self.first))
            open_rows, length = open_rows[~certain], length * 4
        return scores, ids


def ranks_in(listed: Tensor, wanted: Tensor) -> Tensor:
    """The position of each wanted item in its list, int64 of the shape of `wanted`; at or beyond the list's end if it
    is absent."""
    order = listed.sort(dim=1)
    at = torch.searchsorted(order.values, wanted).clamp(max=listed.shape[1] - 1)
    there = order.values.gather(1, at) == wanted
    return torch.where(there, order.indices.gather(1, at), listed.shape[1])
