"""Grouped lookup: rows of many tables, pooled and written straight into their columns of one buffer.

    grouped_lookup(tables, ids, offsets, weights, dense, features, copies, width) -> [B, width]

Each feature reads one table by one column range of one id tensor (or by a jagged segment of it) and writes `dim` columns of the
output (`length * dim` without pooling). `dense` tensors [B, k] are copied into their columns, so that the buffer equals a concatenation
of the lookups and dense features. Features and copies cover the columns [0, width) exactly once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from recfx.ir.lookup_ops import ROW_PICKERS, TABLE_ARGUMENTS
from recfx.ops import checks
from recfx.ops.descriptions import MEAN as MEAN
from recfx.ops.descriptions import NONE as NONE
from recfx.ops.descriptions import SUM as SUM
from recfx.ops.descriptions import Feature as Feature
from recfx.ops.library import define
from recfx.ops.lookup_aten import decomposed_lookup
from recfx.ops.plain_lookup import PlainLookup

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
    """The reference implementation of `recfx::grouped_lookup`, one feature after another; see `Feature` for the lists of tensors.

    Args:
        tables: The tables.
        ids: The id tensors.
        offsets: The starts of jagged bags.
        weights: The weights of ids.
        dense: Floating-point tensors [B, k] to copy into the result.
        features: The list of `encode`.
        copies: Pairs of a position in `dense` and the first column it is copied to.
        width: The number of columns of the result.

    Returns:
        [B, width].

    Raises:
        IndexError: An id outside its table, or offsets that do not describe bags of the ids.
    """
    return plain_lookup(features, copies)(tables, ids, offsets, weights, dense)


def _decomposition(
    tables: list[torch.Tensor],
    ids: list[torch.Tensor],
    offsets: list[torch.Tensor],
    weights: list[torch.Tensor],
    dense: list[torch.Tensor],
    features: list[int],
    copies: list[int],
    width: int,
) -> torch.Tensor:
    return decomposed_lookup(decode(features), copies, tables, ids, offsets, weights, dense)


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
    _decomposition,
)

TABLE_ARGUMENTS[grouped_lookup] = 0
ROW_PICKERS.add(grouped_lookup)
