"""Packed rows of codes for dot products: every row carries the affine map from its codes to its values.

One row of a table of dimension D at b bits is `[codes | float32 lower | float32 step]`; the value of a code c is `lower + step * c`. The
codes take n bytes, `ceil(D * b / 8)` rounded up to a multiple of 8, so that they can be read as 64-bit words. Code j lies in byte
`j mod n`, at bit `b * (j div n)`: codes of neighbouring columns lie in neighbouring bytes, and one mask and one shift, the same
for all bytes of a row, separate them. Codes beyond D are zero. Unlike rows of `recfx.formats.rowwise`, these rows keep their constants in
float32: the order of scores depends on bits that half precision does not have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recfx.errors import InputError

#: The widths that packed codes may have.
CODE_BITS = (8, 4, 2, 1)

#: Bytes of `lower` and `step` at the end of each row.
CONSTANT_BYTES = 8

#: The largest number of columns: a dot product of this many codes fits into int32.
MOST_COLUMNS = 1 << 16

_WORD = 8
_BLOCK_VALUES = 1 << 20


class Codes(NamedTuple):
    """A table as codes, before they are packed.

    Attributes:
        codes: uint8 [n, d], each in [0, 2**bits - 1].
        lower: float32 [n, 1], the value of code 0.
        step: float32 [n, 1], the difference between neighbouring codes.
        bits: Bits of a code.
    """

    codes: Tensor
    lower: Tensor
    step: Tensor
    bits: int

    def values(self) -> Tensor:
        """The decoded embeddings, [n, d], in the dtype of the constants."""
        return self.lower + self.step * self.codes.to(self.step.dtype)


def code_bytes(bits: int, dim: int) -> int:
    """Bytes of the codes of one row, padded to whole words."""
    return -(-dim * bits // (8 * _WORD)) * _WORD


def code_row_bytes(bits: int, dim: int) -> int:
    """Bytes of one packed row, with its constants."""
    return code_bytes(bits, dim) + CONSTANT_BYTES


def pack_codes(table: Codes) -> Tensor:
    """Packs codes and their constants.

    Returns:
        uint8 [n, code_row_bytes(bits, d)].

    Raises:
        InputError: `bits` is not in `CODE_BITS`, codes do not fit into it, or there are more columns than int32 sums allow.
    """
    codes, bits = table.codes, table.bits
    if bits not in CODE_BITS:
        raise InputError(
            f"packed codes have 8, 4, 2 or 1 bits, not {bits}",
            where="pack_codes",
            hint="pass one of these numbers of bits",
        )
    if codes.dtype != torch.uint8 or codes.ndim != 2 or not 0 < codes.shape[1] <= MOST_COLUMNS:
        raise InputError(
            f"codes must be uint8 [n, d] with d of 1 to {MOST_COLUMNS:,}, got {codes.dtype} {list(codes.shape)}",
            where="pack_codes",
            hint="pass codes of this dtype and shape",
        )
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise InputError(
            f"code {int(codes.max())} does not fit into {bits} bits",
            where="pack_codes",
            hint="pass more bits, or codes below 2 to the power of bits",
        )
    rows, dim = codes.shape
    width, per = code_bytes(bits, dim), 8 // bits
    packed = torch.empty(rows, width + CONSTANT_BYTES, dtype=torch.uint8)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8).view(1, per, 1)
    step = max(1, _BLOCK_VALUES // (width * per))
    for start in range(0, rows, step):
        block = codes[start : start + step]
        padded = torch.nn.functional.pad(block, (0, width * per - dim)).view(len(block), per, width)
        packed[start : start + step, :width] = (padded << shifts).sum(1, dtype=torch.uint8)
    constants = torch.cat([table.lower.float().expand(rows, 1), table.step.float().expand(rows, 1)], 1)
    packed[:, width:] = constants.contiguous().view(torch.uint8)
    return packed


def unpack_codes(packed: Tensor, bits: int, dim: int) -> Codes:
    """The codes and constants of packed rows.

    Args:
        packed: uint8 [n, code_row_bytes(bits, dim)].
        bits: 8, 4, 2 or 1.
        dim: Codes in a row.

    Raises:
        InputError: The rows have another length.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != code_row_bytes(bits, dim):
        raise InputError(
            f"rows of {dim} codes of {bits} bits are uint8 [n, {code_row_bytes(bits, dim)}], "
            f"got {packed.dtype} {list(packed.shape)}",
            where="unpack_codes",
            hint="pass rows that were packed with these bits and this dimension",
        )
    width = code_bytes(bits, dim)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device).view(1, -1, 1)
    codes = (packed[:, None, :width] >> shifts) & ((1 << bits) - 1)
    constants = packed[:, width:].contiguous().view(torch.float32)
    return Codes(codes.flatten(1)[:, :dim].contiguous(), constants[:, :1], constants[:, 1:], bits)
