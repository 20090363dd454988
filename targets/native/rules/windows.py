"""Windows of one or two dimensions over sequences and images, for convolutions and pools."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from recfx.kernels.codes import Size
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import compact, copy
from recfx.targets.native.rules.view import narrowed
from recfx.targets.native.values import Dim, Unsupported, Value


@dataclasses.dataclass(frozen=True)
class Window:
    """The windows along one dimension.

    Attributes:
        size: Elements of a window.
        step: Elements from the start of a window to the start of the next.
        spread: Elements from one element of a window to the next (the dilation).
        before: Elements of padding before the first.
        after: Elements of padding after the last.
    """

    size: int
    step: int
    spread: int
    before: int
    after: int

    def count(self, length: int) -> int:
        """The number of windows along `length` elements."""
        return (length + self.before + self.after - self.spread * (self.size - 1) - 1) // self.step + 1


def numbers(given: Any, rank: int) -> list[int]:
    held = [given] * rank if isinstance(given, int) else list(given)
    if not all(isinstance(number, int) for number in held):
        raise Unsupported("its windows vary")
    return held * rank if len(held) == 1 else held


def windows_of(sizes: Sequence[int], steps: Any, padding: Any, spreads: Any) -> list[Window]:
    """The windows of each dimension; `padding` is a width for both sides, or "same" or "valid"."""
    rank = len(sizes)
    found = []
    widths = [0] * rank if isinstance(padding, str) else numbers(padding, rank)
    for size, step, width, spread in zip(sizes, numbers(steps, rank), widths, numbers(spreads, rank), strict=True):
        whole = spread * (size - 1)
        before, after = (whole // 2, whole - whole // 2) if padding == "same" else (width, width)
        found.append(Window(size, step, spread, before, after))
    return found


def image(builder: PlanBuilder, node: Any, rank: int) -> Value:
    """A float32 input [B, channels, ...]. Only its first dimension may be the batch."""
    value = builder.value(node)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    if len(value.dims) != rank + 2 or any(d.batch for d in value.dims[1:]):
        raise Unsupported("its batch is not the first dimension")
    return value


def with_edges(builder: PlanBuilder, value: Value, windows: Sequence[Window], first: int, fill: float) -> Value:
    """The value with the windows' padding around its dimensions from `first` on."""
    if not any(w.before or w.after for w in windows):
        return value
    dims = list(value.dims)
    for position, w in enumerate(windows, first):
        dims[position] = Dim(dims[position].size + w.before + w.after, 0)
    whole = room = builder.temp(dims)
    constant = builder.constant(torch.full((1,), fill, dtype=torch.float32))
    for position, w in enumerate(windows, first):
        size = room.dims[position].size
        for start, count in ((0, w.before), (size - w.after, w.after)):
            if count:
                edge = narrowed(room, position, start, count)
                spread = tuple(dataclasses.replace(d, stride=0) for d in edge.dims)
                copy(builder, Value(constant.slot, constant.offset, spread), edge)
        room = narrowed(room, position, w.before, size - w.before - w.after)
    copy(builder, value, room)
    return whole


def opened(value: Value, windows: Sequence[Window], first: int) -> tuple[list[Dim], list[Dim]]:
    """For each windowed dimension from `first` on: where windows start, and the elements inside one."""
    starts, inside = [], []
    for position, w in enumerate(windows, first):
        held = value.dims[position]
        inner = Window(w.size, w.step, w.spread, 0, 0)
        starts.append(Dim(inner.count(held.size), held.stride * w.step))
        inside.append(Dim(w.size, held.stride * w.spread))
    return starts, inside


def side_by_side(builder: PlanBuilder, windows: Value, first: int) -> Value:
    """A contiguous copy of windows whose inner dimensions begin at `first`.

    If the windows have more dimensions than one step can copy, each step copies one index of the dimension `first`.
    """
    if sum(d.size > 1 for d in windows.dims) <= Size.RANK:
        return compact(builder, windows)
    fresh = builder.temp(windows.dims)
    for i in range(windows.dims[first].size):
        copy(builder, narrowed(windows, first, i, 1), narrowed(fresh, first, i, 1))
    return fresh
