"""Bags of different lengths, and rows of tables in any number format."""

from __future__ import annotations

from typing import Any

import torch

from recfx.formats.rowwise import TAIL_BYTES, row_bytes
from recfx.onnx.rule import Call, fake_of
from recfx.onnx.rules.bits import every, half_of
from recfx.onnx.rules.indexing import whole_positions
from recfx.ops.lookup import MEAN, Feature

_MOST = torch.iinfo(torch.int64).max
_F32 = torch.float32


def decoded(call: Call, rows: str, dtype: torch.dtype, f: Feature) -> str:
    """Rows of a table as float32 numbers. Bytes are decoded by tables: 256 codes and 65,536 numbers in half precision."""
    graph = call.graph
    if f.bits == 32:
        return call.cast(rows, dtype, _F32)
    end = row_bytes(f.bits, f.dim) - TAIL_BYTES
    axis = graph.whole(-1)
    tails = graph.op("Slice", rows, graph.whole(end), graph.whole(end + TAIL_BYTES), axis)
    tail = half_of(graph, every(graph, tails, 0, 2), every(graph, tails, 1, 2))
    codes = graph.op("Slice", rows, graph.whole(0), graph.whole(end), axis)
    scale, bias = (graph.op("Slice", tail, graph.whole(at), graph.whole(at + 1), axis) for at in range(2))
    numbers = _codes(call, codes, f)
    return graph.op("Add", graph.op("Mul", numbers, scale), bias)


def _codes(call: Call, codes: str, f: Feature) -> str:
    """The codes of bytes, as float32 numbers."""
    graph = call.graph
    if f.bits == 8:
        return graph.op("Cast", codes, to=1)
    per = 8 // f.bits
    shifts = torch.arange(0, 8, f.bits)
    table = ((torch.arange(256).unsqueeze(1) >> shifts) & ((1 << f.bits) - 1)).float()
    spread = graph.op("Gather", graph.constant(table), graph.op("Cast", codes, to=6))  # [..., bytes, codes of a byte]
    width = (row_bytes(f.bits, f.dim) - TAIL_BYTES) * per
    shape = graph.op("Concat", graph.op("Shape", codes, end=-1), graph.whole(width), axis=0)
    flat = graph.op("Reshape", spread, shape, allowzero=1)
    return flat if width == f.dim else graph.op("Slice", flat, graph.whole(0), graph.whole(f.dim), graph.whole(-1))


class Bags:
    """The bags of one jagged feature.

    Offsets that do not start at 0, fall, or exceed the number of ids are replaced by positions that the runtime refuses.

    Attributes:
        ids: The ids of all features.
        kind: Their type.
    """

    def __init__(self, call: Call, f: Feature, ids: Any, offsets: Any) -> None:
        self.graph = call.graph
        self.ids, self.kind = whole_positions(call, ids)
        graph, held = self.graph, call.cast(call.value(offsets), fake_of(offsets).dtype, torch.int64)
        count = graph.op("Shape", self.ids)
        self._whole = f.segments == 1 and not f.last
        first, end, inner = self._bounds(f, held, count)
        self._first, self._end = first, end
        wrong = graph.once(("offsets", held, count), lambda: self._wrong(held, count))
        if f.last and f.segments == 1 and (f.weights < 0 if f.pooling == MEAN else f.padding >= 0):
            # torch's embedding bag counts ids behind the last offset.
            wrong = graph.op("Or", wrong, graph.op("Less", end, count))
        ends = graph.op("Sub", graph.op("Concat", inner, end, axis=0), first)
        self._bags = graph.op("Shape", ends)
        ends = graph.op("Where", wrong, graph.whole(_MOST), ends)
        within = graph.op("Max", graph.op("Sub", end, first), graph.whole(0))
        self._count = graph.op("Min", within, count)  # wrong offsets may lie anywhere; the error is that of their bags
        self._numbers = graph.op("Unsqueeze", self._bag_numbers(ends), graph.whole(1))

    def _bounds(self, f: Feature, offsets: str, count: str) -> tuple[str, str, str]:
        """The first position and the end of the feature's ids, and the starts of its bags except the first."""
        graph = self.graph
        if f.segments == 1:
            inner = graph.op("Slice", offsets, graph.whole(1), graph.whole(-1 if f.last else _MOST))
            end = graph.op("Slice", offsets, graph.whole(-1), graph.whole(_MOST)) if f.last else count
            return graph.whole(0), end, inner
        total = graph.op("Sub", graph.op("Shape", offsets), graph.whole(int(f.last)))
        batch = graph.op("Div", total, graph.whole(f.segments))
        start = graph.op("Mul", batch, graph.whole(f.segment))
        stop = graph.op("Mul", batch, graph.whole(f.segment + 1))
        first = graph.op("Slice", offsets, start, graph.op("Add", start, graph.whole(1)))
        inner = graph.op("Slice", offsets, graph.op("Add", start, graph.whole(1)), stop)
        if f.last or f.segment + 1 < f.segments:
            return first, graph.op("Slice", offsets, stop, graph.op("Add", stop, graph.whole(1))), inner
        return first, count, inner

    def _wrong(self, offsets: str, count: str) -> str:
        """Whether the offsets do not start at 0, fall, or exceed the number of ids [1]."""
        graph = self.graph
        bound = graph.op("Concat", graph.whole(0), offsets, count, axis=0)
        before = graph.op("Slice", bound, graph.whole(0), graph.whole(-1))
        falls = graph.op("Sub", before, graph.op("Slice", bound, graph.whole(1), graph.whole(_MOST)))
        first = graph.op("Abs", graph.op("Slice", offsets, graph.whole(0), graph.whole(1)))
        largest = graph.op("ReduceMax", graph.op("Concat", graph.whole(0), falls, first, axis=0), keepdims=1)
        return graph.op("Greater", largest, graph.whole(0))

    def _bag_numbers(self, ends: str) -> str:
        """The bag of each id, from the position behind each bag."""
        graph = self.graph
        places = graph.op("Expand", graph.whole(0), graph.op("Add", self._count, graph.whole(1)))
        ones = graph.op("Expand", graph.whole(1), self._bags)
        ended = graph.op("ScatterElements", places, ends, ones, axis=0, reduction="add")
        sums = graph.op("CumSum", ended, graph.scalar(0, torch.int64))
        return graph.op("Slice", sums, graph.whole(0), graph.whole(-1))

    def part(self, value: str) -> str:
        """The feature's part of a tensor with one element for each id."""
        return value if self._whole else self.graph.op("Slice", value, self._first, self._end)

    def summed(self, rows: str, dim: int) -> str:
        """Rows [ids, dim] summed by bag: [bags, dim]."""
        graph = self.graph
        shape = graph.op("Concat", self._bags, graph.whole(dim), axis=0)
        empty = graph.op("Expand", graph.scalar(0, _F32), shape)
        return graph.op("ScatterND", empty, self._numbers, rows, reduction="add")

    def counted(self, kept: str | None) -> str:
        """The number of ids in each bag [bags]; of those that `kept` marks."""
        graph = self.graph
        ones = graph.op("Expand", graph.scalar(1, _F32), self._count)
        marked = ones if kept is None else graph.op("Cast", kept, to=1)
        empty = graph.op("Expand", graph.scalar(0, _F32), self._bags)
        return graph.op("ScatterND", empty, self._numbers, marked, reduction="add")
