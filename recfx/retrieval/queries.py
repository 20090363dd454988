"""Queries as searches read them, and how the values of a search become scores.

    1 bit:    <q, x> ~ m s_i (d - 2 |bits that differ|) + m c_i sum(signs)      signs of q, m = mean |q|; item = c_i +- s_i
    8 bits:   <q, x> ~ m (step_i <z, codes> + lower_i sum(z))                     z = round(q / m), m = max |q| / 127

A grid per dimension is folded into the query: <q, lower + step * codes> = <q, lower> + <q * step, codes>.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recfx.retrieval.grid import Grid
from recfx.retrieval.packing import pack, words_of

#: Largest number of a query of eight bits; -128 is left out, so that both signs reach equally far.
LARGEST = 127


_HALF = torch.tensor(0.5)
_NONE = torch.empty(0)


@dataclass(frozen=True)
class Prepared:
    """Queries, and score = gain * value + offset.

    Attributes:
        rows: int32 words or int8 numbers, see `recfx.targets.native.retrieval.Scan`.
        scale: float32 [n], or None where items rank by the product.
        bias: float32 [n], or None.
        query_sum: float32 [Q], empty where nothing needs it.
        gain: float32 [Q, 1] or [].
        offset: float32 [Q, 1].
    """

    rows: Tensor
    scale: Tensor | None
    bias: Tensor | None
    query_sum: Tensor
    gain: Tensor
    offset: Tensor


def round_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 rows [Q, d] as int8 numbers and what one of them is worth, float32 [Q, 1]; 1 for rows of zeros."""
    unit = values.abs().amax(1, keepdim=True) / LARGEST
    unit = torch.where(unit > 0, unit, 1.0)
    return (values / unit).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), unit


def prepare_hamming(codes: Tensor) -> Prepared:
    """Queries of one bit, uint8 [Q, d] of 0 and 1, whose score is minus the number of bits that differ: (value - d) / 2."""
    count, dim = codes.shape
    return Prepared(pack(codes, 1), None, None, _NONE, _HALF, torch.full((count, 1), -dim / 2))


def prepare_bits(codes: Tensor, magnitude: Tensor, grid: Grid) -> Prepared:
    """Queries of one bit, uint8 [Q, d] of 0 and 1, that stand for -m and m, float32 [Q, 1]."""
    sums = 2.0 * codes.sum(1, dtype=torch.int64).float() - codes.shape[1]
    half, middle = grid.halves
    rows = pack(codes, 1)
    if grid.kind == "row":
        return Prepared(rows, half, middle, sums, magnitude, torch.zeros_like(magnitude))
    return Prepared(rows, None, None, sums, magnitude * half, magnitude * middle * sums[:, None])


def prepare_numbers(values: Tensor, grid: Grid, bits: int) -> Prepared:
    """Float32 queries [Q, d] as eight-bit numbers."""
    folded = values * grid.step if grid.kind == "dimension" else values
    numbers, unit = round_rows(folded)
    sums = numbers.sum(1, dtype=torch.int64).float()
    width = words_of(values.shape[1], bits) * (32 // bits)
    rows = torch.nn.functional.pad(numbers, (0, width - values.shape[1])).contiguous()
    if grid.kind == "row":
        return Prepared(rows, grid.step, grid.lower, sums, unit, torch.zeros_like(unit))
    if grid.kind == "dimension":
        return Prepared(rows, None, None, sums, unit, (values @ grid.lower)[:, None])
    return Prepared(rows, None, None, sums, unit * grid.step, unit * grid.lower * sums[:, None])
