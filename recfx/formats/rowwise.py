"""Row-wise n-bit tables: every row carries its own scale and bias.

One row of a table of dimension D at b bits is `[ceil(D * b / 8) bytes of codes | fp16 scale | fp16 bias]`, the layout of FBGEMM's fused
n-bit row-wise format (`FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf`). Codes are packed from the lowest bits of a byte upwards;
the value of a code q is `q * scale + bias`. At 4 and 2 bits the bytes equal those of torch's
`quantized::embedding_bag_{4,2}bit_prepack`; at 8 bits torch's own prepack keeps scale and bias in float32 and is 4 bytes longer. A scale
that rounds to zero is stored as 1, with codes of zero.
"""

from __future__ import annotations

import torch

from recfx.errors import InputError
from recfx.formats._row_fit import codes_of, least_squares, spread, two_levels
from recfx.progress import progress

#: The widths a row-wise table may have.
ROW_BITS = (8, 4, 2, 1)

#: Bytes of the scale and the bias at the end of each row.
TAIL_BYTES = 4

_BLOCK_VALUES = 1 << 17  # values that are packed at a time; they stay in the second-level cache


def row_bytes(bits: int, dim: int) -> int:
    """Bytes of one row of `dim` codes of `bits` bits with its scale and bias."""
    return -(-dim * bits // 8) + TAIL_BYTES


def encode_rows(table: torch.Tensor, bits: int, *, refine: bool = False) -> torch.Tensor:
    """Packs a table.

    At 8, 4 and 2 bits a row's bias is its minimum and its scale spreads the codes to its maximum, both rounded to half precision before
    codes are chosen. So `|error| <= |scale| / 2`, plus the rounding errors of both at the ends of the range: at most `2^bits - 1` times
    that of the scale, plus that of the bias. At 1 bit the two values of a row are those of least squared error.

    Args:
        table: Floating point [rows, dim].
        bits: 8, 4, 2 or 1.
        refine: Search scale and bias of each row for the least squared error instead of taking its extremes. The squared error never
            grows; the error of a single value may exceed half a scale. Has no effect at 1 bit.

    Returns:
        uint8 [rows, row_bytes(bits, dim)].

    Raises:
        InputError: The table is not a matrix, holds NaN or infinities, or its numbers are too large or too close together for a scale and a
            bias in half precision.
    """
    if bits not in ROW_BITS:
        raise InputError(
            f"row-wise tables have 8, 4, 2 or 1 bits, not {bits}", hint="pass one of these numbers of bits"
        )
    _require_matrix(table)
    rows, dim = table.shape
    packed = torch.empty(rows, row_bytes(bits, dim), dtype=torch.uint8)
    step = max(1, _BLOCK_VALUES // dim)
    largest_step = vanished = 0.0
    with torch.no_grad(), progress(f"packing {rows:,} rows into {bits} bits", rows) as advance:
        for start in range(0, rows, step):
            block = table[start : start + step].detach().float()
            packed[start : start + step], scale, bias = _encoded(block, bits, refine, start)
            largest_step = max(largest_step, float(scale.abs().max()))
            if bool((scale == 0).any()):
                vanished = max(vanished, _vanished(block[scale[:, 0] == 0], bias[scale[:, 0] == 0]))
            advance(len(block))
    # A row may lose its differences if the error of some larger row is as large.
    if vanished > largest_step / 2:
        raise InputError(
            f"rows whose values lie within {vanished:.3g} would vanish: too close for a scale in half precision",
            hint="multiply the table by a power of two and the weights that read it by the inverse, or store it in bfloat16",
        )
    return packed


def encode_new_rows(rows: torch.Tensor, bits: int, *, refine: bool = False) -> torch.Tensor:
    """Packs new rows of a table that is packed already: each gets the bytes that `encode_rows` gives it in a whole table.

    A row whose values lie too close together for a scale in half precision becomes constant, as in a table with rows of a wider range.

    Args:
        rows: float32 [n, dim].
        bits: 8, 4, 2 or 1.
        refine: See `encode_rows`.

    Returns:
        uint8 [n, row_bytes(bits, dim)].

    Raises:
        InputError: The rows are not a matrix with columns, or one holds NaN, infinities, or numbers beyond half precision.
    """
    _require_matrix(rows)
    packed = torch.empty(len(rows), row_bytes(bits, rows.shape[1]), dtype=torch.uint8)
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    with torch.no_grad():
        for start in range(0, len(rows), step):
            packed[start : start + step] = _encoded(rows[start : start + step], bits, refine, start)[0]
    return packed


def _require_matrix(table: torch.Tensor) -> None:
    if table.ndim != 2 or not table.is_floating_point() or not table.shape[1]:
        raise InputError(
            f"expected a floating-point matrix with columns, got {table.dtype} {list(table.shape)}",
            hint="convert it with .float(), and pass one row for each item",
        )


def _encoded(
    block: torch.Tensor, bits: int, refine: bool, first_row: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The packed rows of a block, and the scale and bias of each; a scale may have rounded to zero."""
    tail = _fit(block, bits, refine, first_row)
    scale, bias = tail.float()[:, :1], tail.float()[:, 1:]
    used = scale
    if bool((scale == 0).any()):
        used = torch.where(scale == 0, 1.0, scale)
        tail = torch.cat([used, bias], 1).half()
    codes = codes_of(block, used, bias, (1 << bits) - 1).to(torch.uint8)
    return torch.cat([_pack(codes, bits), tail.view(torch.uint8)], 1), scale, bias


def _vanished(block: torch.Tensor, bias: torch.Tensor) -> float:
    """The widest range among rows that the bias alone represents badly: with errors as large as the values."""
    gone = (block - bias).abs().amax(1) > block.abs().amax(1) / 4
    span = (block.amax(1) - block.amin(1))[gone]
    return float(span.max()) if len(span) else 0.0


def _fit(block: torch.Tensor, bits: int, refine: bool, first_row: int) -> torch.Tensor:
    """Scale and bias of each row in half precision, [rows, 2]; a scale may have rounded to zero."""
    plain = two_levels(block) if bits == 1 else spread(block, bits)
    tail = torch.cat(plain, 1).half()
    wrong = ~(block.isfinite().all(1) & tail.isfinite().all(1))
    if bool(wrong.any()):
        raise InputError(
            f"row {first_row + int(wrong.nonzero()[0])} of the table holds NaN, infinities or numbers beyond half precision",
            hint="this table cannot be stored row-wise; clean it, or leave it out of quantisation",
        )
    if not refine or bits == 1:
        return tail
    other = torch.cat(least_squares(block, bits), 1).half()
    better = _squared_error(block, other, bits) < _squared_error(block, tail, bits)
    return torch.where(better, other, tail)


def _squared_error(block: torch.Tensor, tail: torch.Tensor, bits: int) -> torch.Tensor:
    """The squared error of each row, [rows, 1]; NaN where scale or bias is not finite."""
    scale, bias = tail.float()[:, :1], tail.float()[:, 1:]
    scale = torch.where(scale == 0, 1.0, scale)
    return (
        codes_of(block, scale, bias, (1 << bits) - 1).mul_(scale).add_(bias).sub_(block).square_().sum(1, keepdim=True)
    )


def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [rows, dim] as bytes, the first in the lowest bits."""
    if bits == 8:
        return codes
    per = 8 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % per)).reshape(codes.shape[0], -1, per)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return (padded << shifts).sum(2, dtype=torch.uint8)


def decode_rows(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """The decoded values of packed rows.

    Args:
        packed: uint8 [..., row_bytes(bits, dim)], or wider when rows are padded at their end.
        bits: 8, 4, 2 or 1.
        dim: Values in a row.

    Returns:
        float32 [..., dim].
    """
    codes_end = row_bytes(bits, dim) - TAIL_BYTES
    tail = (
        packed[..., codes_end : codes_end + TAIL_BYTES]
        .clone(memory_format=torch.contiguous_format)
        .view(torch.float16)
        .float()
    )
    codes = packed[..., :codes_end]
    if bits < 8:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        codes = ((codes.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)[..., :dim]
    return codes.float() * tail[..., 0:1] + tail[..., 1:2]
