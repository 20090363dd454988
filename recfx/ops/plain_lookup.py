"""A grouped lookup with torch's own embedding operators: backends without a kernel run it, at the cost of the original model.

Each feature is one `embedding` or `embedding_bag`, and one concatenation puts the features and the dense columns side by side. For formats
and options that torch's operators lack (rows of a few bits, half precision, weighted means), rows are picked first and then pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.formats import decode_rows
from recfx.ir.bags import IDS_BEHIND_BAGS

Tensor = torch.Tensor

#: Stands for `recfx.ops.lookup.Feature`, whose module imports this one.
Feature = Any

_SUM, _MEAN, _NONE = 0, 1, 2
_JAGGED = -1
_MODES = {_SUM: 0, _MEAN: 1}


class PlainLookup:
    """A grouped lookup whose features are decoded once, called with its tensors.

    Args:
        features: The features.
        copies: Pairs of a position in `dense` and the first column it is copied to.
    """

    def __init__(self, features: Sequence[Feature], copies: Sequence[int]) -> None:
        columns = [(f.output, position, -1) for position, f in enumerate(features)]
        columns += [(column, -1, source) for source, column in zip(copies[::2], copies[1::2], strict=True)]
        self._order = [(position, source) for _, position, source in sorted(columns)]
        self._features = list(features)
        self._jagged = {f.offsets: f for f in features if f.length == _JAGGED}
        self._counting = [f for f in features if _counts_ids_behind(f)]
        self.__name__ = "plain_lookup"

    def __call__(
        self,
        tables: Sequence[Tensor],
        ids: Sequence[Tensor],
        offsets: Sequence[Tensor],
        weights: Sequence[Tensor],
        dense: Sequence[Tensor],
        *_: Any,
    ) -> Tensor:
        """Runs the lookup: [B, width], in the dtype of the tables' numbers (float32 for stored formats)."""
        ends = self._ends(ids, offsets)
        parts = []
        for position, source in self._order:
            if source >= 0:
                parts.append(dense[source])
                continue
            f = self._features[position]
            factors = weights[f.weights] if f.weights >= 0 else None
            table, held = tables[f.table], ids[f.ids]
            try:
                if f.length == _JAGGED:
                    parts.append(_jagged(table, held, offsets[f.offsets], ends[f.offsets], factors, f))
                else:
                    parts.append(_fixed(table, held, factors, f))
            except (IndexError, RuntimeError) as error:
                _require_rows(held + f.base, table, error)
                raise
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _ends(self, ids: Sequence[Tensor], offsets: Sequence[Tensor]) -> dict[int, list[int]]:
        """Position in `offsets` -> the first offset of every run, checked."""
        ends: dict[int, list[int]] = {}
        alike: dict[Any, list[tuple[int, Feature]]] = {}
        for at, f in self._jagged.items():
            kind = (offsets[at].shape[0], offsets[at].dtype, f.segments, f.last)
            alike.setdefault(kind, []).append((at, f))
        for group in alike.values():
            counts = [ids[f.ids].shape[0] for _, f in group]
            found = _checked_ends([offsets[at] for at, _ in group], counts, group[0][1])
            ends |= dict(zip([at for at, _ in group], found, strict=True))
        for f in self._counting:
            last, count = ends[f.offsets][-1], ids[f.ids].shape[0]
            if last < count:
                raise IndexError(f"the offsets end at {last}, before the end of the {count} ids; {IDS_BEHIND_BAGS}")
        return ends


def _counts_ids_behind(f: Feature) -> bool:
    """Whether torch's embedding bag of a feature counts ids behind the last offset. Weighted means are not torch's."""
    counted = f.weights < 0 if f.pooling == _MEAN else f.padding >= 0
    return bool(counted and f.length == _JAGGED and f.last and f.segments == 1)


def _require_rows(ids: Tensor, table: Tensor, error: Exception) -> None:
    """Raises an error that names the valid ids, in place of the error of torch's operator."""
    if ids.numel() and not bool(((ids >= 0) & (ids < table.shape[0])).all()):
        raise IndexError(f"index out of range: ids must be in [0, {table.shape[0]})") from error


def is_whole(f: Feature, table: Tensor) -> bool:
    """Whether torch's operators can read a table: float32, or float64 in reference runs."""
    return bool(f.bits == 32 and table.dtype in (torch.float32, torch.float64))


def _rows(table: Tensor, ids: Tensor, f: Feature) -> Tensor:
    """The table's rows for some ids, as numbers: [..., dim]. torch's operator refuses ids outside the table."""
    rows = torch.embedding(table, ids + f.base if f.base else ids)
    if is_whole(f, table):
        return rows
    return rows.float() if f.bits == 32 else decode_rows(rows, f.bits, f.dim)


def _bag(
    table: Tensor, ids: Tensor, starts: Tensor | None, factors: Tensor | None, f: Feature, *, ended: bool = False
) -> Tensor | None:
    """The result of one `embedding_bag`; None where `embedding_bag` lacks the format or option.

    Args:
        table: The rows.
        ids: [nnz], or [B, length] without `starts`.
        starts: Where each bag begins.
        factors: One for each id.
        f: The feature.
        ended: Whether `starts` holds the end of the last bag.
    """
    padding = f.padding + f.base if f.padding >= 0 else None
    if not is_whole(f, table) or (factors is not None and f.pooling != _SUM) or (padding or 0) >= table.shape[0]:
        return None
    if factors is not None:
        factors = factors.reshape(-1) if factors.dtype is table.dtype else factors.reshape(-1).to(table.dtype)
    if starts is None:
        starts = torch.arange(0, ids.numel(), ids.shape[1], dtype=ids.dtype, device=ids.device)
        ids = ids.reshape(-1)
    elif starts.dtype is not ids.dtype:
        starts = starts.to(ids.dtype)
    ids = ids + f.base if f.base else ids
    return torch.embedding_bag(table, ids, starts, False, _MODES[f.pooling], False, factors, ended, padding)[0]


def _fixed(table: Tensor, ids: Tensor, weights: Tensor | None, f: Feature) -> Tensor:
    """One feature with bags of fixed length: [B, columns]."""
    bag, factors = id_columns(ids, f), id_columns(weights, f) if weights is not None else None
    plain = factors is None and f.padding < 0
    if plain and (f.pooling == _NONE or f.length == 1):
        rows = _rows(table, bag, f)
        return rows if rows.ndim == 2 else rows.flatten(1)
    bag = bag if bag.ndim == 2 else bag.unsqueeze(1)
    factors = factors if factors is None or factors.ndim == 2 else factors.unsqueeze(1)
    if f.pooling != _NONE:
        pooled = _bag(table, bag, None, factors, f)
        if pooled is not None:
            return pooled
    rows, counted = weighted_rows(table, bag, factors, f)
    if f.pooling == _NONE:
        return rows.flatten(1)
    pooled = rows.sum(1)
    return pooled / counted.sum(1, keepdim=True).clamp(min=1) if f.pooling == _MEAN else pooled


def id_columns(ids: Tensor, f: Feature) -> Tensor:
    """The columns of ids [B, ...] that a feature reads: [B], or [B, length]."""
    if ids.ndim == 1:
        return ids
    flat = ids if ids.ndim == 2 else ids.flatten(1)
    if f.length == 1:
        return flat.select(1, f.column)
    return flat if f.length == flat.shape[1] else flat.narrow(1, f.column, f.length)


def weighted_rows(table: Tensor, ids: Tensor, factors: Tensor | None, f: Feature) -> tuple[Tensor, Tensor]:
    """Rows times their weights, zero for padding; and which ids are not padding."""
    counted = ids != f.padding if f.padding >= 0 else torch.ones_like(ids, dtype=torch.bool)
    rows = _rows(table, ids if f.padding < 0 else torch.where(counted, ids, -f.base), f)
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    return (rows if f.padding < 0 else rows.masked_fill(~counted.unsqueeze(-1), 0.0)), counted


def _checked_ends(offsets: Sequence[Tensor], counts: Sequence[int], f: Feature) -> list[list[int]]:
    """Checks several offsets of one shape. Returns, for each, the first offset of every run, and the last offset.

    Raises:
        IndexError: Offsets do not start at 0, fall, or point outside the ids.
    """
    if not offsets[0].shape[0]:
        return [[0] for _ in offsets]
    held = offsets[0].unsqueeze(0) if len(offsets) == 1 else torch.stack(list(offsets))
    batch = (held.shape[1] - int(f.last)) // f.segments
    falls = held.shape[1] > 1 and bool((held[:, 1:] < held[:, :-1]).any())
    ends: list[list[int]] = held[:, :: max(batch, 1)].tolist()
    for row, last, count in zip(ends, held[:, -1].tolist(), counts, strict=True):
        if falls or row[0] != 0 or last > count:
            raise IndexError(f"offsets must start at 0, must not fall and must stay within the {count} ids")
    return ends


def _jagged(table: Tensor, ids: Tensor, offsets: Tensor, ends: list[int], weights: Tensor | None, f: Feature) -> Tensor:
    """One feature with jagged bags: [B, dim]."""
    batch = (offsets.shape[0] - int(f.last)) // f.segments
    first, ended = ends[f.segment], f.segment + 1 < len(ends)
    last = ends[f.segment + 1] if ended else ids.shape[0]
    starts = offsets if f.segments == 1 else offsets[f.segment * batch : (f.segment + 1) * batch + int(ended)]
    whole = first == 0 and last == ids.shape[0]
    held = ids if whole else ids[first:last]
    factors = weights if weights is None or whole else weights[first:last]
    starts = starts if first == 0 else starts - first
    pooled = _bag(table, held, starts, factors, f, ended=ended)
    if pooled is not None:
        return pooled
    starts = starts if ended else torch.cat([starts, starts.new_tensor([held.shape[0]])])
    rows, counted = weighted_rows(table, held, factors, f)
    bag_of = torch.repeat_interleave(torch.arange(batch), starts.long().diff())
    pooled = rows.new_zeros(batch, f.dim).index_add(0, bag_of, rows)
    if f.pooling != _MEAN:
        return pooled
    counts = torch.zeros(batch, dtype=torch.float32).index_add(0, bag_of, counted.float())
    return pooled / counts.clamp(min=1).unsqueeze(-1)
