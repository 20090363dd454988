"""Codes as the words that searches read: packed from the lowest bits, with 16 items per block."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels.searches import BLOCK

#: The widths a code may have.
BITS = (1, 2, 4, 8)

#: The largest number of codes of an item: with more codes, a dot product may overflow 32 bits.
MOST_DIMENSIONS = 1 << 16

_WORD_BYTES = 4


def words_of(dim: int, bits: int) -> int:
    """32-bit words of an item."""
    return -(-dim * bits // 32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes as words.

    Args:
        codes: uint8 [n, d], each below 2^bits.
        bits: 1, 2, 4 or 8.

    Returns:
        int32 [n, words].
    """
    per = 8 // bits
    rows, dim = codes.shape
    width = words_of(dim, bits) * _WORD_BYTES
    if bits == 1:  # many times faster than the general code below
        filled = torch.zeros(rows, width, dtype=torch.uint8)
        filled[:, : -(-dim // 8)] = torch.from_numpy(np.packbits(codes.numpy(), axis=1, bitorder="little"))
        return filled.view(torch.int32)
    padded = torch.nn.functional.pad(codes, (0, width * per - dim)).reshape(rows, width, per)
    packed = padded[:, :, 0].clone(memory_format=torch.contiguous_format)
    for i in range(1, per):
        packed |= padded[:, :, i] << (i * bits)
    return packed.view(torch.int32)


def pack_bytes(packed: Tensor, dim: int, bits: int) -> Tensor:
    """Rows of packed bytes, uint8 [n, ceil(dim * bits / 8)], as words; bits beyond the last code are cleared.

    Raises:
        InputError: The shape or type is wrong.
    """
    width = -(-dim * bits // 8)
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != width:
        raise InputError(
            f"{dim} codes of {bits} bits are uint8 [n, {width}] when packed, got {packed.dtype} {list(packed.shape)}",
            hint="pass rows that were packed with these bits and this dimension",
        )
    filled = torch.nn.functional.pad(packed, (0, words_of(dim, bits) * _WORD_BYTES - width))
    if dim * bits % 8:
        filled[:, width - 1] &= (1 << dim * bits % 8) - 1
    return filled.view(torch.int32)


def unpack(words: Tensor, dim: int, bits: int) -> Tensor:
    """Words, int32 [n, words], as codes, uint8 [n, dim]."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    spread = words.contiguous().view(torch.uint8).unsqueeze(-1) >> shifts
    return (spread & ((1 << bits) - 1)).flatten(1)[:, :dim].contiguous()


def to_blocks(words: Tensor) -> Tensor:
    """Words of items, int32 [n, words], as blocks, int32 [ceil(n / 16), words, 16]."""
    padded = torch.nn.functional.pad(words, (0, 0, 0, -len(words) % BLOCK))
    return padded.view(-1, BLOCK, words.shape[1]).transpose(1, 2).contiguous()


def rows_of(blocks: Tensor, ids: Tensor) -> Tensor:
    """The words of some items, int32 [len(ids), words]."""
    return blocks[ids // BLOCK, :, ids % BLOCK]


def write_rows(blocks: Tensor, ids: Tensor, words: Tensor) -> None:
    """Writes the words of some items into the blocks."""
    blocks[ids // BLOCK, :, ids % BLOCK] = words
