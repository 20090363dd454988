"""Convolutions and pools over windows of one or two dimensions.

A convolution is a product of its windows, channels last, with the weight as a matrix. Windows that are single runs of elements are read in
place, where they may overlap. Other windows are copied first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Reduction, Size
from recfx.kernels.slots import ReduceInt, ReduceView
from recfx.targets.native.builder import PlanBuilder, three_runs, view
from recfx.targets.native.rules.copies import compact, copy
from recfx.targets.native.rules.gemm import emit_gemm
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import narrowed
from recfx.targets.native.values import Dim, Unsupported, Value, merge

_aten = torch.ops.aten

#: The largest number of channel groups. Each group is a separate product.
_MOST_GROUPS = 16


@dataclasses.dataclass(frozen=True)
class _Window:
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


def _numbers(given: Any, rank: int) -> list[int]:
    held = [given] * rank if isinstance(given, int) else list(given)
    if not all(isinstance(number, int) for number in held):
        raise Unsupported("its windows vary")
    return held * rank if len(held) == 1 else held


def _windows(sizes: Sequence[int], steps: Any, padding: Any, spreads: Any) -> list[_Window]:
    """The windows of each dimension; `padding` is a width for both sides, or "same" or "valid"."""
    rank = len(sizes)
    found = []
    widths = [0] * rank if isinstance(padding, str) else _numbers(padding, rank)
    for size, step, width, spread in zip(sizes, _numbers(steps, rank), widths, _numbers(spreads, rank), strict=True):
        whole = spread * (size - 1)
        before, after = (whole // 2, whole - whole // 2) if padding == "same" else (width, width)
        found.append(_Window(size, step, spread, before, after))
    return found


def _image(builder: PlanBuilder, node: Any, rank: int) -> Value:
    """A float32 input [B, channels, ...]. Only its first dimension may be the batch."""
    value = builder.value(node)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    if len(value.dims) != rank + 2 or any(d.batch for d in value.dims[1:]):
        raise Unsupported("its batch is not the first dimension")
    return value


def _with_edges(builder: PlanBuilder, value: Value, windows: Sequence[_Window], first: int, fill: float) -> Value:
    """The value with the windows' padding around its dimensions from `first` on."""
    if not any(w.before or w.after for w in windows):
        return value
    dims = list(value.dims)
    for position, w in enumerate(windows, first):
        dims[position] = Dim(dims[position].size + w.before + w.after, 0)
    whole = room = builder.temp(dims)
    constant = builder.constant(torch.full((1,), fill))
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


def _opened(value: Value, windows: Sequence[_Window], first: int) -> tuple[list[Dim], list[Dim]]:
    """For each windowed dimension from `first` on: where windows start, and the elements inside one."""
    starts, inside = [], []
    for position, w in enumerate(windows, first):
        held = value.dims[position]
        inner = _Window(w.size, w.step, w.spread, 0, 0)
        starts.append(Dim(inner.count(held.size), held.stride * w.step))
        inside.append(Dim(w.size, held.stride * w.spread))
    return starts, inside


@rule(_aten.conv1d.default, _aten.conv1d.padding, _aten.conv2d.default, _aten.conv2d.padding)
def _convolution(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = [*node.args, *[None] * (7 - len(node.args))]
    for position, name in enumerate(("input", "weight", "bias", "stride", "padding", "dilation", "groups")):
        arguments[position] = node.kwargs.get(name, arguments[position])
    weight = builder.tensor(arguments[1])
    rank, groups = weight.ndim - 2, arguments[6] or 1
    if weight.dtype is not torch.float32 or groups > _MOST_GROUPS:
        raise Unsupported(f"its weight is {weight.dtype}, in {groups} groups")
    windows = _windows(weight.shape[2:], arguments[3] or 1, arguments[4] or 0, arguments[5] or 1)
    value = _image(builder, arguments[0], rank)
    order = [0, *range(2, rank + 2), 1]
    last = Value(value.slot, value.offset, tuple(value.dims[i] for i in order))
    last = compact(builder, _with_edges(builder, last, windows, 1, 0.0))
    starts, inside = _opened(last, windows, 1)
    places = math.prod(d.size for d in starts)
    out = builder.temp((last.dims[0], *starts, Dim(weight.shape[0], 1)))
    flat = Value(out.slot, out.offset, (out.dims[0], Dim(places, weight.shape[0]), Dim(weight.shape[0], 1)))
    bias = None if arguments[2] is None else builder.tensor(arguments[2])
    matrix = weight.permute(0, *range(2, rank + 2), 1).reshape(weight.shape[0], -1)
    own, made = last.dims[-1].size // groups, weight.shape[0] // groups
    for g in range(groups):
        channels = Dim(own, last.dims[-1].stride)
        rows = Value(last.slot, last.offset + g * own, (last.dims[0], *starts, *inside, channels))
        part = slice(g * made, (g + 1) * made)
        emit_gemm(
            builder,
            _rows(builder, rows, len(starts) + 1),
            matrix[part].contiguous(),
            narrowed(flat, 2, g * made, made),
            bias=None if bias is None else bias[part].contiguous(),
        )
    builder.values[node] = Value(out.slot, out.offset, (out.dims[0], out.dims[-1], *out.dims[1:-1]))


def _rows(builder: PlanBuilder, windows: Value, lead: int) -> Value:
    """Windows as rows [B, places, elements], copied if a row is not one run or the rows are not evenly spaced."""
    elements = math.prod(d.size for d in windows.dims[lead:])
    if merge(windows.dims[lead:]) not in ([(elements, 1)], []) or len(merge(windows.dims[1:lead])) > 1:
        windows = _side_by_side(builder, windows, lead)
    places = merge(windows.dims[1:lead])
    count, step = places[0] if places else (1, elements)
    return Value(windows.slot, windows.offset, (windows.dims[0], Dim(count, step), Dim(elements, 1)))


def _side_by_side(builder: PlanBuilder, windows: Value, first: int) -> Value:
    """A contiguous copy of windows whose inner dimensions begin at `first`.

    If the windows have more dimensions than one step can copy, each step copies one index of the dimension `first`.
    """
    if sum(d.size > 1 for d in windows.dims) <= Size.RANK:
        return compact(builder, windows)
    fresh = builder.temp(windows.dims)
    for i in range(windows.dims[first].size):
        copy(builder, narrowed(windows, first, i, 1), narrowed(fresh, first, i, 1))
    return fresh


@rule(_aten.max_pool1d.default, _aten.max_pool2d.default, _aten.avg_pool1d.default, _aten.avg_pool2d.default)
def _pool(builder: PlanBuilder, node: fx.Node) -> None:
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
    given: dict[str, Any] = {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    largest = "dilation" in names
    rank = 1 if target in (_aten.max_pool1d.default, _aten.avg_pool1d.default) else 2
    sizes = _numbers(given["kernel_size"], rank)
    windows = _windows(sizes, given["stride"] or sizes, given["padding"], given.get("dilation", 1))
    padded = any(w.before for w in windows)
    if given["ceil_mode"] or given.get("divisor_override") is not None or (padded and not largest):
        raise Unsupported("it has ceil mode, a divisor, or a mean over padding")
    value = _with_edges(builder, _image(builder, node.args[0], rank), windows, 2, -math.inf)
    starts, inside = _opened(value, windows, 2)
    opened = Value(value.slot, value.offset, (*value.dims[:2], *starts, *inside))
    dims = list(range(len(opened.dims) - rank, len(opened.dims)))
    groups = three_runs(opened, dims)
    if groups is None:
        opened = _side_by_side(builder, opened, dims[0])
        groups = three_runs(opened, dims)
        assert groups is not None  # it is contiguous now
    out = builder.temp((*value.dims[:2], *starts))
    outer, _, inner = groups
    source = view(opened, list(groups))
    code = Reduction.MAX if largest else Reduction.MEAN
    builder.emit(
        Kind.REDUCE,
        out,
        [(outer[0], inner[0]), (inner[0], 1)],
        {ReduceView.INPUT: source},
        ints={ReduceInt.REDUCTION: code},
    )
    builder.values[node] = out
