"""The options of an index, and the checks of options and codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.retrieval.grid import KINDS, Kind
from recfx.retrieval.packing import BITS, MOST_DIMENSIONS

Metric = Literal["ip", "cosine", "hamming"]
METRICS = ("ip", "cosine", "hamming")

_WHERE = "recfx.retrieval.Index"
_MOST_ITEMS = 1 << 31


@dataclass(slots=True)
class Form:
    """The options of an index, apart from its items.

    Attributes:
        dim: Codes of an item.
        bits: Bits of a code.
        metric: See `recfx.retrieval.Index`.
        query_bits: 1 or 8.
    """

    dim: int
    bits: int
    metric: Metric
    query_bits: int


def codes_of(queries: Tensor, dim: int) -> Tensor:
    """Queries that are codes of 1 bit, as a contiguous matrix on the CPU; the search checks that they are 0 and 1.

    Raises:
        InputError: The shape is not [n, dim].
    """
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(
            f"codes of queries must be [n, {dim}], got {list(queries.shape)}",
            where=_WHERE,
            hint="pass codes of this dtype and shape",
        )
    return queries.detach().cpu().contiguous()


def checked_codes(codes: Tensor, bits: int, dim: int | None) -> None:
    """Checks codes of a given width.

    Raises:
        InputError: Codes are not uint8 [n, dim] with columns, or not below 2^bits.
    """
    if bits not in BITS:
        raise InputError(
            f"codes have 1, 2, 4 or 8 bits, not {bits}", where=_WHERE, hint="pass one of these numbers of bits"
        )
    if not isinstance(codes, Tensor) or codes.dtype != torch.uint8 or codes.ndim != 2 or not codes.shape[1]:
        got = f"{codes.dtype} {list(codes.shape)}" if isinstance(codes, Tensor) else type(codes).__name__
        raise InputError(
            f"codes must be uint8 [n, d], got {got}", where=_WHERE, hint="pass codes of this dtype and shape"
        )
    if dim is not None and codes.shape[1] != dim:
        raise InputError(
            f"codes must have {dim} columns, got {codes.shape[1]}",
            where=_WHERE,
            hint="pass codes of this dtype and shape",
        )
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise InputError(
            f"code {int(codes.max())} does not fit into {bits} bits",
            where=_WHERE,
            hint="pass more bits, or codes below 2 to the power of bits",
        )


def checked_options(bits: int, metric: Metric, kind: Kind, query_bits: int | None) -> int:
    """Returns the query's bits, after a check of the options.

    Raises:
        InputError: Options exclude each other.
    """
    if bits not in BITS:
        raise InputError(
            f"codes have 1, 2, 4 or 8 bits, not {bits}", where=_WHERE, hint="pass one of these numbers of bits"
        )
    if metric not in METRICS or kind not in KINDS:
        raise InputError(
            f"the metric {metric!r} or the scales per {kind!r} are unknown",
            where=_WHERE,
            hint=f"metrics: {', '.join(METRICS)}; scales: {', '.join(KINDS)}",
        )
    chosen = query_bits if query_bits is not None else 1 if bits == 1 and kind == "table" else 8
    if chosen not in (1, 8) or (chosen == 1 and (bits != 1 or kind == "dimension")):
        raise InputError(
            f"queries of {chosen} bits do not fit items of {bits} bits and scales per {kind}",
            where=_WHERE,
            hint="queries of 1 bit fit items of 1 bit with any scales except per dimension; queries of 8 bits fit all items",
        )
    if metric == "hamming" and (chosen != 1 or kind != "table"):
        raise InputError(
            "the metric 'hamming' needs items and queries of 1 bit and one scale for the table",
            where=_WHERE,
            hint="use metric='dot', or build the index with bits=1",
        )
    return chosen


def checked_size(rows: int, dim: int) -> None:
    """Checks that an index can hold a number of items and dimensions.

    Raises:
        InputError: It cannot.
    """
    if rows >= _MOST_ITEMS or dim > MOST_DIMENSIONS:
        raise InputError(
            f"an index holds up to {_MOST_ITEMS - 1:,} items of {MOST_DIMENSIONS:,} dimensions, not {rows:,} of {dim:,}",
            where=_WHERE,
            hint="divide the items among several indices, or export them to FAISS",
        )
