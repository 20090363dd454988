"""Rows packed into codes with scale and bias by the native kernels, with the bits of `recfx.formats.rowwise`."""

from __future__ import annotations

import torch

from recfx.errors import InputError
from recfx.formats.rowwise import encode_new_rows, row_bytes
from recfx.kernels.library import library, missing
from recfx.kernels.memory import address

#: Widths that the kernels pack; their scale and bias come from the extremes of a row.
KERNEL_BITS = (8, 4, 2)


def pack_new_rows(rows: torch.Tensor, bits: int, *, refine: bool = False) -> torch.Tensor:
    """`encode_new_rows`, by a kernel if there is one.

    Args:
        rows: float32 [n, dim].
        bits: 8, 4, 2 or 1.
        refine: See `recfx.formats.rowwise.encode_rows`.

    Returns:
        uint8 [n, row_bytes(bits, dim)].

    Raises:
        InputError: A row holds no number, or NaN, infinities, or numbers beyond half precision.
    """
    if refine or bits not in KERNEL_BITS or not rows.shape[1] or missing():
        return encode_new_rows(rows, bits, refine=refine)
    rows = rows.contiguous()
    count, dim = rows.shape
    packed = torch.empty(count, row_bytes(bits, dim), dtype=torch.uint8)
    wrong = library().calls["recfx_encode_rows"](bits, address(rows), count, dim, address(packed))
    if wrong >= 0:
        raise InputError(
            f"row {wrong} of the table holds NaN, infinities or numbers beyond half precision",
            hint="this table cannot be stored row-wise; clean it, or leave it out of quantisation",
        )
    return packed
