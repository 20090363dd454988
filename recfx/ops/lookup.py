"""Grouped lookup: rows of many tables, pooled and written straight into their columns of one buffer.

    grouped_lookup(tables, ids, offsets, weights, dense, features, copies, width) -> [B, width]

Each feature reads one table by one column range of one id tensor (or by a jagged segment of it) and writes `dim` columns of the
output (`length * dim` without pooling). `dense` tensors [B, k] are copied into their columns, so that the buffer is what a concatenation
of lookups and dense features would be. Features and copies cover the columns [0, width) exactly once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from recfx.formats import decode_rows
from recfx.ir.tables import ROW_PICKERS, TABLE_ARGUMENTS
from recfx.ops import checks
from recfx.ops.library import define

#: Ways to combine the rows of a bag.
SUM, MEAN, NONE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Feature:
    """What one feature of a grouped lookup reads and where it writes.

    Attributes:
        table: Position in `tables`: float32, bfloat16 or float16 [rows, dim], or uint8 [rows, bytes] in the row-wise format of `bits` bits.
        ids: Position in `ids`: int32 or int64, [B] or [B, N] when the bag's length is fixed, [nnz] when it is jagged.
        dim: Columns of the table.
        output: First column written.
        column: First id column read, for bags of fixed length.
        length: Ids per bag; JAGGED (-1) when offsets say.
        offsets: Position in `offsets` of a 1-D tensor of `segments * B` starts (one more with `last`); -1 without.
        segment: Which run of B starts in the offsets belongs to this feature.
        segments: How many runs the offsets hold.
        last: Whether the offsets end with the number of ids.
        weights: Position in `weights` of a float32 tensor of the same shape as the ids; -1 without.
        pooling: SUM, MEAN or NONE (the rows side by side, `length * dim` columns).
        padding: Ids equal to it add nothing and do not count in a mean; -1 without. Compared before `base` is added.
        base: Added to every id: where the feature's rows begin in a table that several features share.
        bits: 32 for float tables, 8, 4, 2 or 1 for the row-wise format.
    """

    table: int
    ids: int
    dim: int
    output: int
    column: int = 0
    length: int = 1
    offsets: int = -1
    segment: int = 0
    segments: int = 1
    last: bool = True
    weights: int = -1
    pooling: int = SUM
    padding: int = -1
    base: int = 0
    bits: int = 32

    @property
    def columns(self) -> int:
        """Columns of the output the feature writes."""
        return self.dim * self.length if self.pooling == NONE else self.dim


JAGGED = -1
_FIELDS = len(dataclasses.fields(Feature))


def encode(features: Sequence[Feature]) -> list[int]:
    """Features as the flat list of integers that the operator takes."""
    return [int(v) for feature in features for v in dataclasses.astuple(feature)]


def decode(numbers: Sequence[int]) -> list[Feature]:
    """Features from the flat list of integers.

    Raises:
        ValueError: The list ends within a feature.
    """
    if len(numbers) % _FIELDS:
        raise ValueError(f"{len(numbers)} numbers are not features of {_FIELDS} numbers")
    features = []
    for start in range(0, len(numbers), _FIELDS):
        values: list[Any] = list(numbers[start : start + _FIELDS])
        values[9] = bool(values[9])
        features.append(Feature(*values))
    return features


def _batch(
    ids: Sequence[torch.Tensor], offsets: Sequence[torch.Tensor], dense: Sequence[torch.Tensor], f: Feature
) -> Any:
    if dense:
        return dense[0].shape[0]
    if f.length != JAGGED:
        return ids[f.ids].shape[0]
    return (offsets[f.offsets].shape[0] - int(f.last)) // f.segments


def _rows(table: torch.Tensor, ids: torch.Tensor, feature: Feature) -> torch.Tensor:
    """The table's rows for some ids, float32 [..., dim]."""
    at = ids.long() + feature.base
    flat = at.reshape(-1)
    if flat.numel() and not bool(((flat >= 0) & (flat < table.shape[0])).all()):
        raise IndexError(f"index out of range: ids must be in [0, {table.shape[0]})")
    rows = table.index_select(0, flat).reshape(*at.shape, table.shape[1])
    return rows.float() if feature.bits == 32 else decode_rows(rows, feature.bits, feature.dim)


def _fixed(table: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor | None, f: Feature) -> torch.Tensor:
    """One feature with bags of fixed length: [B, columns]."""
    columns = slice(f.column, f.column + f.length)
    bag = _by_row(ids)[:, columns]
    factors = torch.ones(bag.shape) if weights is None else _by_row(weights)[:, columns]
    counted = bag != f.padding if f.padding >= 0 else torch.ones_like(bag, dtype=torch.bool)
    rows = _rows(table, bag if f.padding < 0 else torch.where(counted, bag, -f.base), f)
    rows = rows * (factors * counted).unsqueeze(-1)
    if f.pooling == NONE:
        return rows.flatten(1)
    pooled = rows.sum(1)
    return pooled / counted.sum(1, keepdim=True).clamp(min=1) if f.pooling == MEAN else pooled


def _by_row(values: torch.Tensor) -> torch.Tensor:
    """Values with one row for each bag, as a matrix; there may be no bag."""
    return values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)


def _jagged(
    table: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None, f: Feature, batch: int
) -> torch.Tensor:
    """One feature with jagged bags: [B, dim]."""
    bounds = offsets if f.last else torch.cat([offsets, offsets.new_tensor([ids.shape[0]])])
    bounds = bounds[f.segment * batch : (f.segment + 1) * batch + 1].long()
    _check_bounds(bounds, ids.shape[0])
    lengths = bounds.diff()
    bag_of = torch.repeat_interleave(torch.arange(batch), lengths)
    held = ids[bounds[0] : bounds[-1]]
    factors = torch.ones(held.shape) if weights is None else weights[bounds[0] : bounds[-1]]
    counted = held != f.padding if f.padding >= 0 else torch.ones_like(held, dtype=torch.bool)
    rows = _rows(table, held if f.padding < 0 else torch.where(counted, held, -f.base), f)
    weighted = rows * (factors * counted).unsqueeze(-1)  # float64 in runs that serve as the truth
    pooled = weighted.new_zeros(batch, f.dim).index_add(0, bag_of, weighted)
    if f.pooling != MEAN:
        return pooled
    counts = torch.zeros(batch).index_add(0, bag_of, counted.float())
    return pooled / counts.clamp(min=1).unsqueeze(-1)


def _check_bounds(bounds: torch.Tensor, ids: int) -> None:
    """Refuses offsets that do not describe bags inside the ids."""
    if bool((bounds.diff() < 0).any()) or int(bounds[0]) < 0 or int(bounds[-1]) > ids:
        raise IndexError(f"offsets must not fall and must stay within the {ids} ids")


def reference(
    tables: list[torch.Tensor],
    ids: list[torch.Tensor],
    offsets: list[torch.Tensor],
    weights: list[torch.Tensor],
    dense: list[torch.Tensor],
    features: list[int],
    copies: list[int],
    width: int,
) -> torch.Tensor:
    """The meaning of `recfx::grouped_lookup`, one feature after another."""
    decoded = decode(features)
    batch = _batch(ids, offsets, dense, decoded[0])
    output = torch.empty(batch, width)
    for f in decoded:
        factors = weights[f.weights] if f.weights >= 0 else None
        if f.length == JAGGED:
            part = _jagged(tables[f.table], ids[f.ids], offsets[f.offsets], factors, f, batch)
        else:
            part = _fixed(tables[f.table], ids[f.ids], factors, f)
        output[:, f.output : f.output + f.columns] = part
    for source, column in zip(copies[::2], copies[1::2], strict=True):
        output[:, column : column + dense[source].shape[1]] = dense[source]
    return output


def _fake(
    tables: list[torch.Tensor],
    ids: list[torch.Tensor],
    offsets: list[torch.Tensor],
    weights: list[torch.Tensor],
    dense: list[torch.Tensor],
    features: list[int],
    copies: list[int],
    width: int,
) -> torch.Tensor:
    decoded = decode(features)
    checks.check_lookup(tables, ids, offsets, weights, dense, decoded, copies, width)
    return tables[0].new_empty((_batch(ids, offsets, dense, decoded[0]), width), dtype=torch.float32)


grouped_lookup = define(
    "grouped_lookup(Tensor[] tables, Tensor[] ids, Tensor[] offsets, Tensor[] weights, Tensor[] dense, int[] features, "
    "int[] copies, int width) -> Tensor",
    reference,
    _fake,
)

TABLE_ARGUMENTS[grouped_lookup] = 0
ROW_PICKERS.add(grouped_lookup)
