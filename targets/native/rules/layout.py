"""Nodes that rearrange elements: other names of views, diagonals and windows, padding, flips, rolls."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.pointwise import COPIED
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import narrowed
from recfx.targets.native.values import Dim, Unsupported, Value

_aten = torch.ops.aten


def _permuted(value: Value, order: list[int]) -> Value:
    return Value(value.slot, value.offset, tuple(value.dims[i] for i in order))


@rule(
    _aten.swapaxes.default,
    _aten.swapdims.default,
    _aten.movedim.int,
    _aten.movedim.intlist,
    _aten.moveaxis.int,
    _aten.moveaxis.intlist,
    _aten.mT.default,
    _aten.adjoint.default,
)
def _reordered(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    rank = len(value.dims)
    arguments: Any = node.args
    order = list(range(rank))
    if len(arguments) == 1:
        order[-2:] = reversed(order[-2:])
    elif node.target in (_aten.swapaxes.default, _aten.swapdims.default):
        a, b = (int(i) % rank for i in arguments[1:3])
        order[a], order[b] = order[b], order[a]
    else:
        sources, targets = ([i % rank for i in ([d] if isinstance(d, int) else d)] for d in arguments[1:3])
        rest = iter([i for i in order if i not in sources])
        at = dict(zip(targets, sources, strict=True))
        order = [at[i] if i in at else next(rest) for i in range(rank)]
    builder.values[node] = _permuted(value, order)


@rule(_aten.narrow.default)
def _narrow(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    dim, start, length = node.args[1:4]
    if not isinstance(dim, int) or not isinstance(start, int) or not isinstance(length, int):
        raise Unsupported("its bounds vary")
    dim %= len(value.dims)
    builder.values[node] = narrowed(value, dim, start % max(value.dims[dim].size, 1), length)


@rule(_aten.diagonal.default)
def _diagonal(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    names = ["self", "offset", "dim1", "dim2"]
    given: dict[str, Any] = {"offset": 0, "dim1": 0, "dim2": 1} | dict(zip(names, node.args, strict=False))
    given |= dict(node.kwargs)
    rows, columns = (int(given[name]) % len(value.dims) for name in ("dim1", "dim2"))
    a, b = value.dims[rows], value.dims[columns]
    if a.batch or b.batch:
        raise Unsupported("its diagonal crosses the batch")
    offset = int(given["offset"])
    start = offset * b.stride if offset > 0 else -offset * a.stride
    kept = [d for i, d in enumerate(value.dims) if i not in (rows, columns)]
    size = builder.shape(node)[-1].size
    builder.values[node] = Value(value.slot, value.offset + start, (*kept, Dim(size, a.stride + b.stride)))


@rule(_aten.unfold.default)
def _windows(builder: PlanBuilder, node: fx.Node) -> None:
    """Windows as a view: they overlap in memory, and nothing is copied."""
    value = builder.value(node.args[0])
    arguments: Any = node.args
    dim, size, step = arguments[1:4]
    dim %= len(value.dims)
    held = value.dims[dim]
    if held.batch:
        raise Unsupported("its windows run over the batch")
    dims = list(value.dims)
    dims[dim] = Dim((held.size - size) // step + 1, held.stride * step)
    builder.values[node] = Value(value.slot, value.offset, (*dims, Dim(size, held.stride)))


@rule(_aten.flip.default)
def _turned_round(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    chosen: Any = node.args[1]
    offset, dims = value.offset, list(value.dims)
    for d in {int(d) % len(dims) for d in chosen}:
        if dims[d].batch:
            raise Unsupported("it reverses the batch")
        offset += (dims[d].size - 1) * dims[d].stride
        dims[d] = dataclasses.replace(dims[d], stride=-dims[d].stride)
    out = builder.result(node, dtypes=COPIED)
    copy(builder, Value(value.slot, offset, tuple(dims)), out)
    builder.values[node] = out


@rule(_aten.roll.default)
def _rolled(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    shifts: Any = node.args[1]
    given: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dims", ())
    if len(given) != 1:
        raise Unsupported("it rolls over several dimensions")
    dim, size = given[0] % len(value.dims), value.dims[given[0]].size
    if not isinstance(shifts[0], int):
        raise Unsupported("its shift varies")
    last = shifts[0] % size
    out = builder.result(node, dtypes=COPIED)
    for start, count, to in ((size - last, last, 0), (0, size - last, last)):
        if count:
            copy(builder, narrowed(value, dim, start, count), narrowed(out, dim, to, count))
    builder.values[node] = out


@rule(_aten.pad.default, _aten.constant_pad_nd.default)
def _padded(builder: PlanBuilder, node: fx.Node) -> None:
    """Pads with a number. A negative width removes elements."""
    value = builder.value(node.args[0])
    widths: Any = node.args[1]
    mode, number = "constant", node.args[2] if len(node.args) > 2 else node.kwargs.get("value")
    if node.target is _aten.pad.default:
        mode = str(node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant"))
        number = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    fill: Any = 0 if number is None else number
    if mode != "constant" or not isinstance(fill, int | float) or not all(isinstance(w, int) for w in widths):
        raise Unsupported("it does not pad with a number, or its widths vary")
    out = builder.result(node, dtypes=COPIED)
    constant = builder.constant(torch.full((1,), fill, dtype=builder.dtype(out)))
    room = out
    for position in range(len(widths) // 2):
        dim = len(value.dims) - 1 - position
        before, after = widths[2 * position : 2 * position + 2]
        if not before and not after:
            continue
        value = narrowed(value, dim, max(-before, 0), value.dims[dim].size + min(before, 0) + min(after, 0))
        size = room.dims[dim].size
        for start, count in ((0, before), (size - after, after)):
            if count > 0:
                edge = narrowed(room, dim, start, count)
                dims = tuple(dataclasses.replace(d, stride=0) for d in edge.dims)
                copy(builder, Value(constant.slot, constant.offset, dims), edge)
        room = narrowed(room, dim, max(before, 0), value.dims[dim].size)
    copy(builder, value, room)
    builder.values[node] = out
