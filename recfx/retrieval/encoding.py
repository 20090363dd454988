"""Embeddings as blocks of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.formats._progress import progress
from recfx.retrieval.grid import Grid
from recfx.retrieval.packing import pack, to_blocks, words_of

_BLOCK_VALUES = 1 << 22


def encode_blocks(values: Tensor, grid: Grid, bits: int) -> Tensor:
    """Blocks of the codes of float32 values [n, d], made a part at a time."""
    rows, dim = values.shape
    words = torch.empty(rows, words_of(dim, bits), dtype=torch.int32)
    step = max(1, _BLOCK_VALUES // dim)
    with progress(f"rounding {rows:,} items to {bits} bits", rows) as advance:
        for start in range(0, rows, step):
            some = torch.arange(start, min(start + step, rows))
            words[start : start + step] = pack(grid.rows(some).encode(values[start : start + step], bits), bits)
            advance(len(some))
    return to_blocks(words)
