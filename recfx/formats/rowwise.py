"""Row-wise n-bit tables: every row carries its own scale and bias.

One row of a table of dimension D at b bits is `[ceil(D * b / 8) bytes of codes | fp16 scale | fp16 bias]`, the layout of FBGEMM's fused
n-bit row-wise format (`FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf`). Codes are packed from the lowest bits of a byte upwards;
the value of a code q is `q * scale + bias`.
"""

from __future__ import annotations

import torch

#: The widths a row-wise table may have.
ROW_BITS = (8, 4, 2, 1)

#: Bytes of the scale and the bias at the end of each row.
TAIL_BYTES = 4


def row_bytes(bits: int, dim: int) -> int:
    """Bytes of one row of `dim` codes of `bits` bits with its scale and bias."""
    return -(-dim * bits // 8) + TAIL_BYTES


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
