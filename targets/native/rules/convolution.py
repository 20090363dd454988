"""Convolutions over windows of one or two dimensions.

A convolution whose windows move by one element along rows has a kernel of its own, which reads them in place. Any other convolution is a
product of its windows, channels last, with the weight as a matrix. Windows that are single runs of elements are read in place, where they
may overlap. Other windows are copied first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind
from recfx.kernels.slots import ConvolveInt, ConvolvePointer, ConvolveView
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.gemm import emit_gemm
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import narrowed
from recfx.targets.native.rules.windows import Window, image, opened, side_by_side, windows_of, with_edges
from recfx.targets.native.values import Dim, Unsupported, Value, merge

_aten = torch.ops.aten

#: Vectors of the widest level, and the share of their elements that the kernel of convolutions must fill to be faster than a product of
#: copied windows. A product fills its vectors with outputs, so few outputs leave it emptier still.
_LANES, _FILLED, _FEW_OUTPUTS = 16, 0.7, 8

#: The largest number of channel groups. Each group is a separate product.
_MOST_GROUPS = 16


@rule(_aten.conv1d.default, _aten.conv1d.padding, _aten.conv2d.default, _aten.conv2d.padding)
def _convolution(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = [*node.args, *[None] * (7 - len(node.args))]
    for position, name in enumerate(("input", "weight", "bias", "stride", "padding", "dilation", "groups")):
        arguments[position] = node.kwargs.get(name, arguments[position])
    weight = builder.tensor(arguments[1])
    rank, groups = weight.ndim - 2, arguments[6] or 1
    if weight.dtype is not torch.float32 or groups > _MOST_GROUPS:
        raise Unsupported(f"its weight is {weight.dtype}, in {groups} groups")
    windows = windows_of(weight.shape[2:], arguments[3] or 1, arguments[4] or 0, arguments[5] or 1)
    value = image(builder, arguments[0], rank)
    if _moves_along_rows(value, windows, weight.shape[0]):
        return _emit_direct(builder, node, value, weight, arguments[2], windows, groups)
    order = [0, *range(2, rank + 2), 1]
    last = Value(value.slot, value.offset, tuple(value.dims[i] for i in order))
    last = compact(builder, with_edges(builder, last, windows, 1, 0.0))
    starts, inside = opened(last, windows, 1)
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


def _moves_along_rows(value: Value, windows: Sequence[Window], outputs: int) -> bool:
    """Whether neighbouring windows start at neighbouring elements, and fill the vectors of the kernel well enough."""
    last, held = windows[-1], value.dims[-1]
    if last.step != 1 or (held.stride != 1 and held.size != 1):
        return False
    count = last.count(held.size)
    if len(windows) == 2 and last.size == 1 and not last.before and windows[0].step == 1:
        count *= windows[0].count(value.dims[2].size)  # rows follow each other without a gap
    return (outputs <= _FEW_OUTPUTS <= count) or count >= _FILLED * _LANES * -(-count // _LANES)


def _emit_direct(
    builder: PlanBuilder,
    node: fx.Node,
    value: Value,
    weight: torch.Tensor,
    bias: Any,
    windows: Sequence[Window],
    groups: int,
) -> None:
    """Adds a step for each group that reads the windows in place and writes channels first, as torch does."""
    value = with_edges(builder, value, windows, 2, 0.0)
    starts, inside = opened(value, windows, 2)
    out = builder.temp((value.dims[0], Dim(weight.shape[0], 0), *starts))
    held = None if bias is None else builder.tensor(bias)
    own, made = weight.shape[1], weight.shape[0] // groups
    runs = merge(starts)
    if not runs or runs[-1][1] != 1:
        runs.append((1, 1))  # one window a row
    (rows, row), (columns, _) = [(1, 0), *runs][-2:]
    height, width = [Dim(1, 0), *inside][-2:]
    window = {
        ConvolveInt.CHANNELS: own,
        ConvolveInt.CHANNEL_STRIDE: value.dims[1].stride,
        ConvolveInt.ROWS: height.size,
        ConvolveInt.ROW_STRIDE: height.stride,
        ConvolveInt.COLUMNS: width.size,
        ConvolveInt.COLUMN_STRIDE: width.stride,
    }
    for g in range(groups):
        part = slice(g * made, (g + 1) * made)
        pointers = {ConvolvePointer.WEIGHT: builder.packer.once("windows", weight, g, partial(_in_fours, weight[part]))}
        if held is not None:
            pointers[ConvolvePointer.BIAS] = builder.packer.vector(held[part], made)
        source = view(narrowed(value, 1, g * own, own), [(rows, row), (columns, 1)])
        target = narrowed(out, 1, g * made, made)
        runs = [(made, rows * columns), (rows, columns), (columns, 1)]
        builder.emit(Kind.CONVOLVE, target, runs, {ConvolveView.INPUT: source}, ints=window, pointers=pointers)
    builder.values[node] = out


def _in_fours(weight: torch.Tensor) -> torch.Tensor:
    """A weight [N, ...] in blocks of four outputs [N / 4, ..., 4], the last one filled with zeros."""
    n = weight.shape[0]
    whole = torch.zeros(-(-n // 4) * 4, *weight.shape[1:], dtype=torch.float32)
    whole[:n] = weight.detach()
    blocks: torch.Tensor = whole.unflatten(0, (-1, 4)).movedim(1, -1).contiguous()
    return blocks


def _rows(builder: PlanBuilder, windows: Value, lead: int) -> Value:
    """Windows as rows [B, places, elements], copied if a row is not one run or the rows are not evenly spaced."""
    elements = math.prod(d.size for d in windows.dims[lead:])
    if merge(windows.dims[lead:]) not in ([(elements, 1)], []) or len(merge(windows.dims[1:lead])) > 1:
        windows = side_by_side(builder, windows, lead)
    places = merge(windows.dims[1:lead])
    count, step = places[0] if places else (1, elements)
    return Value(windows.slot, windows.offset, (windows.dims[0], Dim(count, step), Dim(elements, 1)))
