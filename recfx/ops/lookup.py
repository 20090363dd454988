"""Grouped lookup: rows of many tables, pooled and written straight into their columns of one buffer.

    grouped_lookup(tables, ids, offsets, weights, dense, features, copies, width) -> [B, width]

Each feature reads one table by one column range of one id tensor (or by a jagged segment of it) and writes `dim` columns of the
output (`length * dim` without pooling). `dense` tensors [B, k] are copied into their columns, so that the buffer is what a concatenation
of lookups and dense features would be. Features and copies cover the columns [0, width) exactly once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from recfx.ir.lookup_ops import ROW_PICKERS, TABLE_ARGUMENTS
from recfx.ops import checks
from recfx.ops.library import define
from recfx.ops.plain_lookup import PlainLookup

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


@lru_cache(maxsize=256)
def _plain(features: tuple[int, ...], copies: tuple[int, ...]) -> PlainLookup:
    return PlainLookup(decode(features), copies)


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
    return plain_lookup(features, copies)(tables, ids, offsets, weights, dense)


def plain_lookup(features: Sequence[int], copies: Sequence[int]) -> PlainLookup:
    """A lookup as torch's own operators run it, decoded once for many calls."""
    return _plain(tuple(features), tuple(copies))


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
