"""The definition of searches in plain torch, which also runs if the kernels were not built."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from recfx.formats.searchable import LARGEST
from recfx.kernels.searches import Rounded, Rounding, Scan
from recfx.retrieval.packing import pack, rows_of, unpack
from recfx.retrieval.rounding import round_rows

_BLOCK_VALUES = 1 << 22


def scan(search: Scan) -> tuple[Tensor, Tensor]:
    """See `recfx.kernels.searches.scan`."""
    search = _with_rounded_queries(search)
    queries = len(search.queries)
    best = torch.full((queries, search.k), -torch.inf, dtype=torch.float64)
    ids = torch.full((queries, search.k), -1)
    step = max(1, _BLOCK_VALUES // max(search.dim, queries, 1))
    for start in range(0, search.items, step):
        some = torch.arange(start, min(start + step, search.items))
        values = _values(search, some)
        hidden = _hidden(search, some)
        both = torch.cat([best, values.masked_fill(hidden, -torch.inf)], 1)
        names = torch.cat([ids, some.expand(queries, -1).masked_fill(hidden, -1)], 1)
        # The sort is stable, so that among equal values the lower id, which is earlier, stays first.
        order = both.sort(dim=1, descending=True, stable=True).indices[:, : search.k]
        best, ids = both.gather(1, order), names.gather(1, order)
    scores = best.float()
    if search.gain is not None and search.offset is not None:
        scores = torch.where(ids < 0, scores, scores * search.gain[:, None] + search.offset[:, None])
    return scores, ids


def shortlist(search: Scan) -> Tensor:
    """See `recfx.kernels.searches.shortlist`."""
    return scan(search)[1]


def round_queries(asked: Rounding, width: int) -> Rounded:
    """See `recfx.kernels.searches.round_queries`."""
    values = asked.values
    bad = (values > 1 if asked.to == "codes" else ~(values.abs() <= LARGEST)).any(1).nonzero()
    if len(bad):
        raise asked.unfit(int(bad[0]))
    if asked.to == "numbers":
        numbers, units = round_rows(values)
        rows, unit = torch.nn.functional.pad(numbers, (0, width - values.shape[1])), units[:, 0]
        sums = numbers.sum(1, dtype=torch.int64).float()
    else:
        codes = (values > 0).to(torch.uint8)
        rows, unit = pack(codes, 1), torch.ones(len(values), dtype=torch.float32)
        if asked.to == "signs":
            unit = values.abs().double().mean(1).float()
        sums = 2.0 * codes.sum(1, dtype=torch.int64).float() - values.shape[1]
    return Rounded(rows, sums, unit * asked.step, asked.constant + unit * asked.lower * sums)


def _with_rounded_queries(search: Scan) -> Scan:
    asked = search.queries
    if not isinstance(asked, Rounding):
        return search
    words = search.blocks.shape[1]
    found = round_queries(asked, words * (32 // search.bits) if asked.to == "numbers" else words)
    rounded = {"queries": found.rows, "query_sum": found.sums, "gain": found.gain, "offset": found.offset}
    return dataclasses.replace(search, **rounded)  # type: ignore[arg-type]


def _values(search: Scan, some: Tensor) -> Tensor:
    """The values that items rank by, float64 [Q, n]. Products are exact in float64; the affine form is computed in
    float32."""
    assert isinstance(search.queries, Tensor)
    words = rows_of(search.blocks, some)
    if search.queries.dtype == torch.int32:
        items, queries = (2.0 * unpack(t, search.dim, 1).double() - 1 for t in (words, search.queries))
    else:
        items, queries = unpack(words, search.dim, search.bits).double(), search.queries[:, : search.dim].double()
    products = queries @ items.T
    if search.scale is None or search.query_sum is None:
        return products
    scale, sums = search.scale[some], search.query_sum[:, None]
    if search.bias is None:
        return ((products.float() + search.lower * sums) * scale).double()
    return (products.float() * scale + sums * search.bias[some]).double()


def _hidden(search: Scan, some: Tensor) -> Tensor:
    """Deleted and excluded items, bool [Q, n]."""
    hidden = torch.zeros(len(search.queries), len(some), dtype=torch.bool)
    if search.dead is not None:
        hidden |= (search.dead[some // 64] >> (some % 64) & 1).bool()
    if search.exclude is not None:
        starts, ids = search.exclude
        row = torch.repeat_interleave(torch.arange(len(search.queries)), starts.diff())
        inside = (ids >= some[0]) & (ids <= some[-1])
        hidden[row[inside], ids[inside] - some[0]] = True
    return hidden


def rescore(
    rows: Tensor, queries: Tensor, shortlist: Tensor, k: int, affine: tuple[Tensor, Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """See `recfx.kernels.searches.rescore`, which adds the products of float rows in another order."""
    by_id = shortlist.sort(1).values
    chosen = rows[by_id.clamp(min=0)] if len(rows) else rows.new_zeros(*by_id.shape, rows.shape[1])
    wide = torch.float64 if rows.dtype == torch.uint8 else torch.float32
    values = torch.einsum("qmd,qd->qm", chosen.to(wide), queries.to(wide)).float()
    if affine is not None:
        scale, bias, query_sum = affine
        safe = by_id.clamp(min=0)
        values = values * scale[safe] + query_sum[:, None] * bias[safe]
    values = values.masked_fill(by_id < 0, -torch.inf)
    short = max(0, k - values.shape[1])
    values = torch.nn.functional.pad(values, (0, short), value=-torch.inf)
    by_id = torch.nn.functional.pad(by_id, (0, short), value=-1)
    # Entries of -1 sort first among ids; their score of -inf moves them to the end.
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return values.gather(1, order), by_id.gather(1, order)
