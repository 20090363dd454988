"""Helpers of the tests of the kernels' checks: lookups whose ids, offsets and tables are next to unreadable memory."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from native_kit import generator, lower

from recfx.formats import row_bytes
from recfx.ir import Program
from recfx.ops import lookup
from recfx.testing.builder import GraphBuilder

ROWS, LONGEST = 5, 3

#: A feature's form of ids: length, pooling, whether it has weights, and whether it has a padding id.
FORMS: dict[str, tuple[int, int, bool, bool]] = {
    "one row": (1, lookup.SUM, False, False),
    "one weighted row": (1, lookup.SUM, True, False),
    "one row or padding": (1, lookup.SUM, False, True),
    "a bag": (LONGEST, lookup.SUM, False, False),
    "a weighted mean": (LONGEST, lookup.MEAN, True, True),
    "side by side": (LONGEST, lookup.NONE, False, False),
    "side by side or padding": (LONGEST, lookup.NONE, False, True),
    "jagged": (lookup.JAGGED, lookup.SUM, False, False),
    "jagged mean, weighted": (lookup.JAGGED, lookup.MEAN, True, True),
}


def guarded(table: torch.Tensor, *, at_end: bool = True) -> torch.Tensor:
    """The same table with its end, or start, next to unreadable memory: a read outside the table ends the process."""
    page = mmap.PAGESIZE
    own = -(-table.numel() * table.element_size() // page) * page
    area = mmap.mmap(-1, own + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for address in (start, start + page + own):
        if protect(address, page, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    count = table.numel()
    first = own // table.element_size() - count if at_end else 0
    held = torch.frombuffer(memoryview(area)[page : page + own], dtype=table.dtype)[first : first + count]
    return held.view(table.shape).copy_(table)


def rows_in(kind: int, width: int) -> torch.Tensor:
    rng = generator(kind + 100 * width)
    if abs(kind) >= 16:
        dtype = {32: torch.float32, 16: torch.bfloat16, -16: torch.float16}[kind]
        return torch.randn(ROWS, width, generator=rng).to(dtype)
    packed = torch.randint(0, 256, (ROWS, row_bytes(kind, width)), generator=rng).to(torch.uint8)
    packed[:, -4:] = torch.randn(ROWS, 2, generator=rng).half().view(torch.uint8)
    return packed


@cache
def program(form: str, kind: int, width: int, dtype: torch.dtype) -> Program:
    """A lookup of two features that share their ids."""
    length, pooling, weighted, padded = FORMS[form]
    jagged = length == lookup.JAGGED
    features, output = [], 0
    for number in range(2):
        feature = lookup.Feature(
            number, 0, width, output, length=length, pooling=pooling, bits=32 if abs(kind) >= 16 else kind,
            weights=0 if weighted else -1, padding=2 if padded else -1, offsets=0 if jagged else -1,
        )  # fmt: skip
        features.append(feature)
        output += feature.columns
    numbers = lookup.encode(features)

    count = "count" if jagged else "batch"
    shape = (count,) if jagged else (count, length)
    b = GraphBuilder(
        {"dense": ("batch", 1), "ids": (shape, dtype), "factors": shape, "offsets": (("batch + 1",), torch.int64)}
    )
    dense, ids, factors, offsets = b.inputs.values()
    table = rows_in(kind, width)
    tables = [b.state("first", table), b.state("second", table.clone())]
    starts, weights = [offsets] if jagged else [], [factors] if weighted else []
    return b.build(
        b.call(lookup.grouped_lookup, tables, [ids], starts, weights, [dense], numbers, [0, output], output + 1)
    )


@cache
def made(form: str, kind: int, width: int, dtype: torch.dtype, level: str) -> Callable[..., Any]:
    return lower(program(form, kind, width, dtype), level)


def inputs(form: str, dtype: torch.dtype, batch: int) -> list[torch.Tensor]:
    """Dense [B, 1], correct ids, weights, and offsets."""
    length = FORMS[form][0]
    shape = (batch * LONGEST,) if length == lookup.JAGGED else (batch, length)
    ids = torch.arange(torch.Size(shape).numel()).remainder(ROWS).reshape(shape)
    return [torch.ones(batch, 1), ids.to(dtype), torch.ones(shape), torch.arange(0, batch * LONGEST + 1, LONGEST)]
