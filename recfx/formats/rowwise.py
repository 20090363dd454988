"""Row-wise n-bit tables: every row carries its own scale and bias.

One row of a table of dimension D at b bits is `[ceil(D * b / 8) bytes of codes | fp16 scale | fp16 bias]`, the layout of FBGEMM's fused
n-bit row-wise format (`FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf`). Codes are packed from the lowest bits of a byte upwards;
the value of a code q is `q * scale + bias`. At 4 and 2 bits the bytes equal those of torch's
`quantized::embedding_bag_{4,2}bit_prepack`; at 8 bits torch's own prepack keeps scale and bias in float32 and is 4 bytes longer.
"""

from __future__ import annotations

import torch

from recfx.errors import InputError

#: The widths a row-wise table may have.
ROW_BITS = (8, 4, 2, 1)

#: Bytes of the scale and the bias at the end of each row.
TAIL_BYTES = 4

_BLOCK_VALUES = 1 << 22
_LARGEST_HALF = 65504.0
_LLOYD_STEPS = 4


def row_bytes(bits: int, dim: int) -> int:
    """Bytes of one row of `dim` codes of `bits` bits with its scale and bias."""
    return -(-dim * bits // 8) + TAIL_BYTES


def encode_rows(table: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs a table.

    At 8, 4 and 2 bits a row's bias is its minimum and its scale spreads the codes to its maximum, both rounded to half precision before
    codes are chosen, so that `|error| <= scale / 2` but for what that rounding cuts off at the top. At 1 bit the two values of a row are
    the means of what lies above and below a threshold, found by Lloyd's iteration from the row's mean.

    Args:
        table: Floating point [rows, dim].
        bits: 8, 4, 2 or 1.

    Returns:
        uint8 [rows, row_bytes(bits, dim)].

    Raises:
        InputError: The table is no matrix, holds NaN or infinities, or numbers that half precision cannot hold as a scale or a bias.
    """
    if bits not in ROW_BITS:
        raise InputError(f"row-wise tables have 8, 4, 2 or 1 bits, not {bits}")
    if table.ndim != 2 or not table.is_floating_point():
        raise InputError(f"expected a floating-point matrix, got {table.dtype} {list(table.shape)}")
    rows, dim = table.shape
    packed = torch.empty(rows, row_bytes(bits, dim), dtype=torch.uint8)
    step = max(1, _BLOCK_VALUES // max(dim, 1))
    for start in range(0, rows, step):
        block = table[start : start + step].detach().float()
        packed[start : start + step] = _encode_block(block, bits, start)
    return packed


def _encode_block(block: torch.Tensor, bits: int, first_row: int) -> torch.Tensor:
    wrong = ~block.isfinite().all(1)
    wrong |= block.abs().amax(1) > _LARGEST_HALF if block.shape[1] else False
    if bool(wrong.any()):
        row = first_row + int(wrong.nonzero()[0])
        raise InputError(
            f"row {row} of the table holds NaN, an infinity or a number beyond {_LARGEST_HALF:.0f}",
            hint="such a table cannot be stored row-wise; clean it, or leave it out of quantisation",
        )
    bias, scale = _two_levels(block) if bits == 1 else _spread(block, bits)
    tail = torch.stack([scale, bias], 1).half()
    scale, bias = tail.float()[:, :1], tail.float()[:, 1:]
    scale = torch.where(scale == 0, 1.0, scale)
    codes = ((block - bias) * (1 / scale)).round().clamp(0, (1 << bits) - 1).to(torch.uint8)
    tail[:, 0] = scale[:, 0].half()
    return torch.cat([_pack(codes, bits), tail.view(torch.uint8)], 1)


def _spread(block: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bias and scale that spread the codes from the row's minimum to its maximum."""
    bias = block.amin(1).half().float()
    span = block.amax(1) - bias
    return bias, torch.where(span == 0, 1.0, span / ((1 << bits) - 1))


def _two_levels(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bias and scale of the two values of least squared error (Lloyd 1982), started at the mean."""
    threshold = block.mean(1, keepdim=True)
    low = high = threshold
    for _ in range(_LLOYD_STEPS):
        above = block > threshold
        count = above.sum(1, keepdim=True)
        total = torch.where(above, block, 0.0).sum(1, keepdim=True)
        high = torch.where(count > 0, total / count.clamp(min=1), threshold)
        others = block.shape[1] - count
        low = torch.where(others > 0, (block.sum(1, keepdim=True) - total) / others.clamp(min=1), threshold)
        threshold = (low + high) / 2
    return low[:, 0], (high - low)[:, 0]


def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [rows, dim] as bytes, the first in the lowest bits."""
    if bits == 8:
        return codes
    per = 8 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % per)).reshape(codes.shape[0], -1, per)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return (padded << shifts).sum(2, dtype=torch.uint8)


def decode_rows(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """The values that packed rows stand for.

    Args:
        packed: uint8 [..., row_bytes(bits, dim)], or wider when rows are padded at their end.
        bits: 8, 4, 2 or 1.
        dim: Values in a row.

    Returns:
        float32 [..., dim].
    """
    codes_end = row_bytes(bits, dim) - TAIL_BYTES
    tail = packed[..., codes_end : codes_end + TAIL_BYTES].contiguous().view(torch.float16).float()
    codes = packed[..., :codes_end]
    if bits < 8:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        codes = ((codes.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)[..., :dim]
    return codes.float() * tail[..., 0:1] + tail[..., 1:2]
