"""Rounding trained embeddings row by row: signs with a scale, levels about zero, levels between a row's extremes."""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.formats.rotations import check_finite
from recfx.learn.bounds import CentredRowBounds, PerRowBounds
from recfx.learn.codes import QuantizedTable
from recfx.learn.estimators import StraightThrough
from recfx.learn.quantizer import Quantizer


def sign_rows(table: Tensor) -> QuantizedTable:
    """Rounds each row to its signs times its mean magnitude, the scale of least squared error. Zero counts as negative,
    because halves between two codes round to the even code.

    Args:
        table: Floating point [n, d].

    Raises:
        InputError: It is not a floating-point matrix with columns, or holds NaN or infinities.
    """
    return scaled_rows(table, 1)


def scaled_rows(table: Tensor, bits: int) -> QuantizedTable:
    """Rounds each row to 2**bits levels about zero. The outermost levels are at the multiple of its mean magnitude that
    suits normal values best.

    Args:
        table: Floating point [n, d].
        bits: 1, 2, 4 or 8; at 1 bit this is `sign_rows`.

    Raises:
        InputError: As for `sign_rows`, or the bits are unknown.
    """
    return _round(table, Quantizer(bits, PerRowBounds(bits, "magnitude"), StraightThrough()))


def centred_rows(table: Tensor, bits: int) -> QuantizedTable:
    """`round_rows` of the rows after subtraction of the mean row, which is stored with the codes.

    Args:
        table: Floating point [n, d].
        bits: 1, 2, 4 or 8.

    Raises:
        InputError: As for `sign_rows`, or the bits are unknown.
    """
    check_finite(table, "post-training quantisation")
    bounds = CentredRowBounds(bits, table.shape[1]).to(table)
    bounds.observe(table)
    return _round(table, Quantizer(bits, bounds, StraightThrough()))


def minmax_rows(table: Tensor, bits: int) -> QuantizedTable:
    """Rounds each row to 2**bits levels from its smallest to its largest value; the error is at most half a step.

    Args:
        table: Floating point [n, d].
        bits: 1, 2, 4 or 8.

    Raises:
        InputError: As for `sign_rows`, or the bits are unknown.
    """
    return _round(table, Quantizer(bits, PerRowBounds(bits, "minmax"), StraightThrough()))


def round_rows(table: Tensor, bits: int) -> QuantizedTable:
    """`scaled_rows` at 1 and 2 bits, `minmax_rows` at more bits: the method with the smaller error on normal values."""
    return scaled_rows(table, bits) if bits <= 2 else minmax_rows(table, bits)


def _round(table: Tensor, quantizer: Quantizer) -> QuantizedTable:
    check_finite(table, "post-training quantisation")
    with torch.no_grad():
        return quantizer.eval().table(table.detach())
