"""Rounding of queries for searches, and the map from a search's values to scores.

    1 bit:    <q, x> ~ m s_i (d - 2 |differing bits|) + m c_i sum(signs)    signs of q, m = mean |q|; item = c_i +- s_i
    8 bits:   <q, x> ~ m (step_i <z, codes> + lower_i sum(z))               z = round(q / m), m = max |q| / 127

Symmetric rows have c_i = 0, and lower_i = l step_i with the same l for all: <q, x> ~ m step_i (<z, codes> + l sum(z)).

A grid per dimension is folded into the query: <q, lower + step * codes> = <q, lower> + <q * step, codes>.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels.library import missing
from recfx.kernels.searches import Rounded, Rounding, round_queries
from recfx.retrieval import reference
from recfx.retrieval.grid import Grid, checked, plain
from recfx.retrieval.options import Form, codes_of
from recfx.retrieval.packing import words_of


@dataclass(slots=True)
class Prepared:
    """Queries, with score = gain * value + offset.

    Attributes:
        rows: int32 words or int8 numbers, or values that the search rounds, see `recfx.kernels.searches.Scan`.
        scale: float32 [n], or None if items rank by the product.
        bias: float32 [n], or None.
        gain: float32 [Q]; None if the search rounds.
        offset: float32 [Q]; None if the search rounds.
        lower: The value of code 0 in steps; read if there is a scale and no bias.
    """

    rows: Tensor | Rounding
    scale: Tensor | None = None
    bias: Tensor | None = None
    gain: Tensor | None = None
    offset: Tensor | None = None
    lower: float = 0.0


def prepare(queries: Tensor, grid: Grid, form: Form) -> Prepared:
    """Rounds queries, or accepts queries that are codes.

    Args:
        queries: Floating point [Q, d]; for queries of 1 bit also uint8 of 0 and 1.
        grid: The grid of the items.
        form: The options of the index.

    Raises:
        InputError: The width or type of queries is wrong, or a search cannot rank by their numbers.
    """
    if isinstance(queries, Tensor) and queries.dtype == torch.uint8:
        if form.query_bits != 1:
            raise InputError(
                f"queries are codes of 1 bit, and this index rounds queries to {form.query_bits} bits",
                where="recfx.retrieval",
                hint="pass floating-point queries, or build the index of 1-bit items with query_bits=1",
            )
        return _to_signs(codes_of(queries, form.dim), grid, form, "codes")
    # The search checks the numbers that it rounds. If they are computed from the caller's numbers, those are checked
    # here.
    as_they_are = form.metric != "cosine" and grid.kind != "dimension"
    values = (plain if as_they_are else checked)(queries, form.dim, "queries")
    if form.metric == "cosine":
        values = torch.nn.functional.normalize(values, dim=1)
    return _to_signs(values, grid, form, "signs") if form.query_bits == 1 else _to_numbers(values, grid, form.bits)


def _to_signs(values: Tensor, grid: Grid, form: Form, to: Literal["signs", "codes"]) -> Prepared:
    """Queries as signs times their mean magnitude, or as codes that mean -1 and 1."""
    if form.metric == "hamming":  # minus the number of differing bits, (value - d) / 2
        return Prepared(Rounding(values, "bits" if to == "signs" else to, 0.5, constant=-form.dim / 2))
    if grid.kind == "symmetric":
        return Prepared(Rounding(values, to, 0.5), grid.step)
    if grid.kind == "row":
        half, middle = grid.halves
        return Prepared(Rounding(values, to), half, middle)
    lower, step = grid.half_constants
    return Prepared(Rounding(values, to, step, lower))


def _to_numbers(values: Tensor, grid: Grid, bits: int) -> Prepared:
    """Queries as eight-bit numbers."""
    if grid.kind == "row":
        return Prepared(Rounding(values, "numbers"), grid.step, grid.lower)
    if grid.kind == "symmetric":
        return Prepared(Rounding(values, "numbers"), grid.step, lower=grid.lower_in_steps)
    if grid.kind == "table":
        lower, step = grid.constants
        return Prepared(Rounding(values, "numbers", step, lower))
    scaled = checked(values * grid.step, None, "queries, times the steps of the dimensions,")
    found = rounded(scaled, words_of(values.shape[1], bits) * (32 // bits))
    return Prepared(found.rows, gain=found.gain, offset=values @ grid.lower)


def rounded(values: Tensor, width: int) -> Rounded:
    """Rounds queries to eight-bit numbers, by the kernels, or by torch if the kernels were not built.

    Raises:
        InputError: A search cannot rank by the numbers of a row.
    """
    run = round_queries if missing() is None else reference.round_queries
    return run(Rounding(values, "numbers"), width)
