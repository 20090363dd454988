"""Dot products of queries with packed codes of items, in integers.

    code_dot(query [B, d], items [N, bytes], ids [B, C] or None, bits, query_bits) -> [B, C] or [B, N]

If the ids or the queries have one row, it is used for all rows of the other.

`items` is a table of `recfx.formats.code_rows` of `bits` bits a code. Each query is rounded to integers, `q ~ scale * z`: at 1
bit to signs (zero counts as negative), with the mean magnitude as the scale of least squared error; at 4 and 8 bits to -m..m,
m = 7 and 127, with scale `max|q| / m`. With the integer sums `Z = sum_j z_j` and `D = sum_j z_j c_j`,

    sum_j (scale z_j) (lower + step c_j) = scale (lower Z + step D)

At one bit on both sides D counts bits: `D = popcount(s) - popcount(s xor c)` with s the set of positive z, the Hamming distance up to
a constant of the query. A query with NaN or infinities scores NaN; one below 1e-36 everywhere scores as zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recfx.formats.code_rows import CODE_BITS, code_row_bytes, unpack_codes
from recfx.ops.checks import need
from recfx.ops.library import define

#: The widths that queries may be rounded to.
QUERY_BITS = (8, 4, 1)


def round_queries(query: Tensor, query_bits: int) -> tuple[Tensor, Tensor]:
    """Queries as whole numbers.

    Args:
        query: Floating point [B, d].
        query_bits: 8, 4 or 1.

    Returns:
        z, whole numbers as float64 [B, d], and the scale [B, 1] in the type of the query; `query ~ scale * z`. At 8 and 4 bits the
        error of a value is at most half a scale, except for queries below 1e-36.
    """
    finite = query.isfinite().all(1, keepdim=True)
    if query_bits == 1:
        scale = query.double().abs().mean(1, keepdim=True).to(query.dtype)
        whole = torch.where(query > 0, 1.0, -1.0).double()
    else:
        most = float((1 << (query_bits - 1)) - 1)
        span = query.abs().amax(1, keepdim=True)
        inverse = most / span
        whole = (query * torch.where(inverse.isfinite(), inverse, 0.0)).round().double()
        scale = span / most
    return torch.where(finite, whole, 0.0), torch.where(finite, scale, torch.nan)


def reference(query: Tensor, items: Tensor, ids: Tensor | None, bits: int, query_bits: int) -> Tensor:
    """The reference implementation of `recfx::code_dot`.

    Args:
        query: Floating point [B, d].
        items: uint8 [N, bytes], rows of `recfx.formats.code_rows`.
        ids: int32 or int64 [B, C], in [0, N); None for all items.
        bits: Bits of an item's code: 8, 4, 2 or 1.
        query_bits: Bits to which queries are rounded: 8, 4 or 1.

    Returns:
        [B, C] or [B, N], of the dtype of the query.

    Raises:
        IndexError: An id outside the items.
    """
    if ids is not None and ids.numel() and not bool(((ids >= 0) & (ids < items.shape[0])).all()):
        raise IndexError(f"index out of range: ids must be in [0, {items.shape[0]})")
    return _decomposition(query, items, ids, bits, query_bits)


def _decomposition(query: Tensor, items: Tensor, ids: Tensor | None, bits: int, query_bits: int) -> Tensor:
    """`reference` without its check of the ids: `index_select` makes the same check."""
    whole, scale = round_queries(query, query_bits)
    held = items if ids is None else items.index_select(0, ids.reshape(-1).long())
    codes, lower, step, _ = unpack_codes(held, bits, query.shape[1])
    kind = _exact_type(bits, query_bits, query.shape[1])
    digits = whole.to(kind)
    if ids is None or _is_one(ids.shape[0]):
        dots, lower, step = digits @ codes.to(kind).T, lower.T, step.T
    else:
        dots = (codes.view(*ids.shape, -1).to(kind) @ digits.unsqueeze(2)).squeeze(2)
        lower, step = lower.view(ids.shape), step.view(ids.shape)
    return scale * (lower * whole.sum(1, keepdim=True).to(query.dtype) + step * dots.to(query.dtype))


def _exact_type(bits: int, query_bits: int, columns: int) -> torch.dtype:
    """The smallest type in which sums of products of codes are exact."""
    largest = ((1 << bits) - 1) * max(1, (1 << (query_bits - 1)) - 1)
    return torch.float32 if largest * columns <= 1 << 24 else torch.float64


def _fake(query: Tensor, items: Tensor, ids: Tensor | None, bits: int, query_bits: int) -> Any:
    need(
        query.ndim == 2 and query.is_floating_point(),
        f"expected a floating-point query [B, d], got {query.dtype} of {query.ndim} dimensions",
    )
    need(bits in CODE_BITS, f"expected bits of {CODE_BITS}, got {bits}")
    need(query_bits in QUERY_BITS, f"expected query_bits of {QUERY_BITS}, got {query_bits}")
    need(
        items.ndim == 2 and items.dtype is torch.uint8,
        f"expected uint8 items [N, bytes], got {items.dtype} of {items.ndim} dimensions",
    )
    size = code_row_bytes(bits, query.shape[1])
    need(items.shape[1] == size, f"expected items of {size} bytes a row, got {items.shape[1]}")
    need(
        ids is None or (ids.ndim == 2 and ids.dtype in (torch.int32, torch.int64)), "ids must be int32 or int64 [B, C]"
    )
    if ids is None:
        return query.new_empty((query.shape[0], items.shape[0]))
    return query.new_empty((ids.shape[0] if _is_one(query.shape[0]) else query.shape[0], ids.shape[1]))


def _is_one(size: Any) -> bool:
    """Whether a size is always 1. Comparing a symbolic size could fix it."""
    return isinstance(size, int) and size == 1


code_dot = define(
    "code_dot(Tensor query, Tensor items, Tensor? ids, int bits, int query_bits) -> Tensor",
    reference,
    _fake,
    _decomposition,
    gradient="it rounds queries to integers and reads items of a few bits",
)
