"""Encodes embeddings: all items of a new index as blocks, and items that are added to an index."""

from __future__ import annotations

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.progress import progress
from recfx.retrieval.fitting import better_rows, fit
from recfx.retrieval.grid import Grid, checked, given_rows
from recfx.retrieval.options import Form, checked_codes
from recfx.retrieval.packing import pack, to_blocks, words_of

_BLOCK_VALUES = 1 << 22


def encode_blocks(values: Tensor, grid: Grid, bits: int) -> Tensor:
    """Blocks of the codes of float32 values [n, d], computed a part at a time."""
    rows, dim = values.shape
    words = torch.empty(rows, words_of(dim, bits), dtype=torch.int32)
    step = max(1, _BLOCK_VALUES // dim)
    with progress(f"rounding {rows:,} items to {bits} bits", rows) as advance:
        for start in range(0, rows, step):
            some = torch.arange(start, min(start + step, rows))
            words[start : start + step] = pack(grid.rows(some).encode(values[start : start + step], bits), bits)
            advance(len(some))
    return to_blocks(words)


def round_items(
    items: Tensor, lower: Tensor | None, step: Tensor | None, grid: Grid, form: Form, *, undecided: bool = False
) -> tuple[Tensor, Grid]:
    """Packed codes of items that are added to an index, int32 [n, words], and their grid.

    Args:
        items: See `Index.add`.
        lower: See `Index.add`.
        step: See `Index.add`.
        grid: The grid of the index.
        form: The options of the index.
        undecided: Whether the kind of rows may differ from that of `grid`.

    Raises:
        InputError: See `Index.add`.
    """
    if isinstance(items, Tensor) and items.dtype == torch.uint8:
        checked_codes(items, form.bits, form.dim)
        if grid.by_row != (lower is not None or step is not None):
            what = "codes need lower and step, because the rows of this index have constants of their own"
            if not grid.by_row:
                what = "leave out lower and step: the rows of this index have no constants of their own"
            raise InputError(
                what, where="recfx.retrieval.Index", hint="pass codes with the constants of the same quantiser"
            )
        if grid.by_row:
            grid = given_rows(lower, step, len(items), form.bits)
        return pack(items.detach().cpu(), form.bits), grid
    values = checked(items, form.dim, "items")
    if form.metric == "cosine":
        values = torch.nn.functional.normalize(values, dim=1)
    rounding = grid
    if grid.by_row:
        grid, rounding = fit(values, form.bits, better_rows(values, form.bits) if undecided else grid.kind)
    return pack(rounding.encode(values, form.bits), form.bits), grid
