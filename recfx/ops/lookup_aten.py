"""The decomposition of a grouped lookup: one or a few operators of ATen for each feature, and a concatenation.

Bags of a fixed length are gathered and reduced, which compilers fuse and which works for every format of tables. Jagged bags of float
tables are one `embedding_bag`; jagged bags of other formats are gathered and summed by bag. No value is read while tracing, so the graph
holds for every batch. `plain_lookup` reads values; the eager backend runs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recfx.ops.descriptions import MEAN, NONE, SUM, Feature
from recfx.ops.offsets import bag_bounds, bag_numbers, refused_unless
from recfx.ops.plain_lookup import id_columns, is_whole, weighted_rows

_MODES = {SUM: 0, MEAN: 1}


def decomposed_lookup(
    features: Sequence[Feature],
    copies: Sequence[int],
    tables: Sequence[Tensor],
    ids: Sequence[Tensor],
    offsets: Sequence[Tensor],
    weights: Sequence[Tensor],
    dense: Sequence[Tensor],
) -> Tensor:
    """The result of a lookup with these features and copies: [B, width].

    Args:
        features: The features.
        copies: Pairs of a position in `dense` and the first column it is copied to.
        tables: As in `recfx::grouped_lookup`.
        ids: As in `recfx::grouped_lookup`.
        offsets: As in `recfx::grouped_lookup`.
        weights: As in `recfx::grouped_lookup`.
        dense: As in `recfx::grouped_lookup`.
    """
    parts = [(column, dense[at]) for at, column in zip(copies[::2], copies[1::2], strict=True)]
    used = dict.fromkeys((f.offsets, f.ids) for f in features if f.length < 0)
    bounds = {(at, of): bag_bounds(offsets[at].long(), ids[of].shape[0]) for at, of in used}
    for f in features:
        factors = weights[f.weights] if f.weights >= 0 else None
        table, held = tables[f.table], ids[f.ids]
        if f.length < 0:
            parts.append((f.output, _jagged(table, held, *bounds[f.offsets, f.ids], factors, f)))
        else:
            parts.append((f.output, fixed_bags(table, held, factors, f)))
    return torch.cat([part for _, part in sorted(parts, key=lambda part: part[0])], 1)


def fixed_bags(table: Tensor, ids: Tensor, factors: Tensor | None, f: Feature) -> Tensor:
    """One feature with bags of fixed length, gathered and reduced: [B, columns].

    Args:
        table: The rows.
        ids: [B], or [B, N] with the feature's columns among them.
        factors: One for each id.
        f: The feature.
    """
    bag = _two_dimensional(id_columns(ids, f))
    factors = None if factors is None else _two_dimensional(id_columns(factors, f))
    rows, counted = weighted_rows(table, bag, factors, f)
    if f.pooling == NONE:
        return rows.flatten(1)
    pooled = rows.squeeze(1) if f.length == 1 else rows.sum(1)
    if f.pooling == SUM:
        return pooled
    if f.padding < 0:
        return pooled / max(f.length, 1)
    return pooled / counted.sum(1, keepdim=True).clamp(min=1)


def _two_dimensional(columns: Tensor) -> Tensor:
    return columns if columns.ndim == 2 else columns.unsqueeze(1)


def _jagged(table: Tensor, ids: Tensor, bounds: Tensor, valid: Tensor, factors: Tensor | None, f: Feature) -> Tensor:
    """One feature with jagged bags: [B, dim].

    Ids before and behind the feature's own form two more bags, whose ids are replaced by a valid one and whose sums are dropped.

    Args:
        table: The table.
        ids: The ids of all features [count].
        bounds: The first result of `bag_bounds` for the offsets of all features.
        valid: The second result of `bag_bounds`.
        factors: One for each id.
        f: The feature.
    """
    batch = (bounds.shape[0] - 2 - int(f.last)) // f.segments
    first = f.segment * batch + 1
    edges = bounds[first : first + batch + 1]
    before, behind = f.segment > 0, f.last or f.segment + 1 < f.segments
    ends = torch.cat([edges if before else edges[1:], *([bounds[-1:]] if behind else [])])
    read = ids.long()
    if before or behind:
        position = torch.arange(ids.shape[0], device=ids.device)
        inside = (position >= edges[:1]) & (position < edges[-1:])
        read = torch.where(inside, read, f.padding if f.padding >= 0 else -f.base)
    return _pooled(table, read, ends, valid, factors, f)[int(before) : batch + int(before)]


def _pooled(table: Tensor, ids: Tensor, ends: Tensor, valid: Tensor, factors: Tensor | None, f: Feature) -> Tensor:
    """Rows pooled by bag: [bags, dim].

    Args:
        table: The table.
        ids: int64 [count].
        ends: int64 [bags], the position behind each bag.
        valid: Whether the ends rise and stay within the ids.
        factors: One for each id.
        f: The feature.
    """
    padding = f.padding + f.base if f.padding >= 0 else None
    plain = factors is None or f.pooling == SUM
    if is_whole(f, table) and plain and (padding is None or 0 <= padding < table.shape[0]):
        starts = refused_unless(valid, torch.cat([ends.new_zeros(1), ends]))
        read = ids + f.base if f.base else ids
        factors = None if factors is None else factors.to(table.dtype)
        return torch.embedding_bag(table, read, starts, False, _MODES[f.pooling], False, factors, True, padding)[0]
    rows, counted = weighted_rows(table, ids, factors, f)
    bag = bag_numbers(refused_unless(valid, ends), ids.shape[0])
    pooled = rows.new_zeros(ends.shape[0], f.dim).index_add(0, bag, rows)
    if f.pooling == SUM:
        return pooled
    counts = rows.new_zeros(ends.shape[0]).index_add(0, bag, counted.to(rows.dtype))
    return pooled / counts.clamp(min=1).unsqueeze(1)
