"""Queries as searches read them, and how the values of a search become scores.

    1 bit:    <q, x> ~ m s_i (d - 2 |bits that differ|) + m c_i sum(signs)      signs of q, m = mean |q|; item = c_i +- s_i
    8 bits:   <q, x> ~ m (step_i <z, codes> + lower_i sum(z))                     z = round(q / m), m = max |q| / 127

Symmetric rows have c_i = 0, and lower_i = l step_i with the same l for all: <q, x> ~ m step_i (<z, codes> + l sum(z)).

A grid per dimension is folded into the query: <q, lower + step * codes> = <q, lower> + <q * step, codes>.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recfx.retrieval import reference
from recfx.retrieval.grid import Grid, checked, plain, unfit
from recfx.retrieval.options import Metric, checked_codes
from recfx.retrieval.packing import pack, words_of
from recfx.targets.native.library import missing
from recfx.targets.native.retrieval import Rounded, round_queries


@dataclass(frozen=True)
class Prepared:
    """Queries, and score = gain * value + offset.

    Attributes:
        rows: int32 words or int8 numbers, see `recfx.targets.native.retrieval.Scan`.
        scale: float32 [n], or None where items rank by the product.
        bias: float32 [n], or None.
        query_sum: float32 [Q]; None where nothing needs it.
        gain: float32 [Q].
        offset: float32 [Q].
        lower: Code 0 in steps, where there is a scale and no bias.
    """

    rows: Tensor
    scale: Tensor | None
    bias: Tensor | None
    query_sum: Tensor | None
    gain: Tensor
    offset: Tensor
    lower: float = 0.0


@dataclass(frozen=True)
class Form:
    """What an index is.

    Attributes:
        dim: Codes of an item.
        bits: Of a code.
        metric: See `recfx.retrieval.Index`.
        query_bits: 1 or 8.
    """

    dim: int
    bits: int
    metric: Metric
    query_bits: int


def prepare(queries: Tensor, grid: Grid, form: Form) -> Prepared:
    """Rounds queries, or takes codes of them.

    Args:
        queries: Floating point [Q, d]; for queries of 1 bit also uint8 of 0 and 1.
        grid: That of the items.
        form: That of the index.

    Raises:
        InputError: Queries of another width or type, or with numbers that a search cannot rank by.
    """
    if isinstance(queries, Tensor) and queries.dtype == torch.uint8 and form.query_bits == 1:
        checked_codes(queries, 1, form.dim)
        codes = queries.detach().cpu()
        return _hamming(pack(codes, 1), form.dim) if form.metric == "hamming" else _of_codes(codes, grid)
    # Rounding looks through the numbers that it is given: these are the caller's unless something is done to them before.
    as_they_are = form.metric != "cosine" and grid.kind != "dimension"
    values = (plain if as_they_are else checked)(queries, form.dim, "queries")
    if form.metric == "cosine":
        values = torch.nn.functional.normalize(values, dim=1)
    if form.metric == "hamming":
        return _hamming(rounded(values, words_of(form.dim, 1), True).rows, form.dim)
    return _to_signs(values, grid) if form.query_bits == 1 else _to_numbers(values, grid, form.bits)


def _of_codes(codes: Tensor, grid: Grid) -> Prepared:
    """Codes that stand for -1 and 1."""
    sums = 2.0 * codes.sum(1, dtype=torch.int64).float() - codes.shape[1]
    ones, rows = torch.ones(len(codes)), pack(codes, 1)
    if grid.kind == "symmetric":
        return Prepared(rows, grid.step, None, sums, ones / 2, torch.zeros(len(codes)))
    if grid.kind == "row":
        half, middle = grid.halves
        return Prepared(rows, half, middle, sums, ones, torch.zeros(len(codes)))
    lower, step = grid.half_constants
    return Prepared(rows, None, None, None, ones * step, lower * sums)


def _to_signs(values: Tensor, grid: Grid) -> Prepared:
    """Signs times their mean magnitude."""
    width = words_of(values.shape[1], 1)
    if grid.kind == "symmetric":
        found = rounded(values, width, True, 0.5)
        return Prepared(found.rows, grid.step, None, found.sums, found.gain, found.offset)
    if grid.kind == "row":
        half, middle = grid.halves
        found = rounded(values, width, True)
        return Prepared(found.rows, half, middle, found.sums, found.gain, found.offset)
    lower, step = grid.half_constants
    found = rounded(values, width, True, step, lower)
    return Prepared(found.rows, None, None, None, found.gain, found.offset)


def _to_numbers(values: Tensor, grid: Grid, bits: int) -> Prepared:
    """Eight-bit numbers."""
    width = words_of(values.shape[1], bits) * (32 // bits)
    if grid.kind == "row":
        found = rounded(values, width, False)
        return Prepared(found.rows, grid.step, grid.lower, found.sums, found.gain, found.offset)
    if grid.kind == "symmetric":
        found = rounded(values, width, False)
        return Prepared(found.rows, grid.step, None, found.sums, found.gain, found.offset, grid.lower_in_steps)
    if grid.kind == "table":
        lower, step = grid.constants
        found = rounded(values, width, False, step, lower)
        return Prepared(found.rows, None, None, None, found.gain, found.offset)
    found = rounded(values * grid.step, width, False)
    return Prepared(found.rows, None, None, None, found.gain, values @ grid.lower)


def _hamming(rows: Tensor, dim: int) -> Prepared:
    """Signs whose score is minus the number of bits that differ: (value - d) / 2."""
    count = len(rows)
    return Prepared(rows, None, None, None, torch.full((count,), 0.5), torch.full((count,), -dim / 2))


def rounded(values: Tensor, width: int, signs: bool, step: float = 1.0, lower: float = 0.0) -> Rounded:
    """Queries rounded by the kernels, or by torch where there are none; see `recfx.targets.native.retrieval.round_queries`.

    Raises:
        InputError: A row with numbers that a search cannot rank by.
    """
    run: Any = round_queries if missing() is None else reference.round_queries
    found = run(values, width, signs, step, lower)
    if isinstance(found, int):
        raise unfit(found, "queries")
    assert isinstance(found, Rounded)
    return found
