"""Moves a selection before operators with sizes as arguments, and before parts of a split; see `narrowing`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import Along, expression, reshaped_axis
from recfx.ir.op_sets import SPLITS
from recfx.passes._match import value
from recfx.passes.narrow.selection import Cut, Narrow, Step, narrowed_operands, out_of

_aten = torch.ops.aten

#: Operators with several results, which are narrowed one by one.
SEVERAL: tuple[Any, ...] = (*SPLITS, _aten.unbind.int)


def reshape(node: fx.Node, place: Cut) -> Step | None:
    out, source = out_of(node), node.args[0]
    mark = through_reshape(source, out.shape, place)
    if mark is None:
        return flattened_linear(node, place)
    return Step(node.target, (mark, with_one(node.args[1], place.dim)), view=True)


def with_one(sizes: Any, dim: int) -> list[Any]:
    return [1 if d == dim else s for d, s in enumerate(sizes)]


def through_reshape(source: Any, shape: Sequence[Any], place: Cut) -> Narrow | None:
    """The cut of the source of a reshape that corresponds to a cut of its result; None if no such cut exists."""
    held = value(source)
    if held is None:
        return None
    dim = reshaped_axis(held.shape, shape, place.dim)
    if not isinstance(dim, Along) or dim.ratio != 1:
        return None
    if place.row is None:
        return Narrow(source, Cut(dim.axis))
    row = reshaped_axis(held.shape, shape, place.row)
    if not isinstance(row, Along) or (place.repeat * row.ratio).denominator != 1:
        return None
    return Narrow(source, Cut(dim.axis, row.axis, int(place.repeat * row.ratio)))


def flattened_linear(node: fx.Node, place: Cut) -> Step | None:
    """The narrowed form of reshape(linear(reshape(x, [rows, K])), [..., N]), a linear whose rows are flattened positions."""
    out, linear = out_of(node), node.args[0]
    if not isinstance(linear, fx.Node) or linear.target is not _aten.linear.default or len(linear.users) != 1:
        return None
    flat, width = linear.args[0], out_of(linear).shape[-1]
    if not isinstance(flat, fx.Node) or flat.target is not _aten.reshape.default:
        return None
    if out_of(flat).ndim != 2 or expression(width) != expression(out.shape[-1]) or len(flat.users) != 1:
        return None
    if place.dim == out.ndim - 1:
        return None
    columns = out_of(flat).shape[-1]
    mark = through_reshape(flat.args[0], [*out.shape[:-1], columns], place)
    if mark is None:
        return None
    sizes: Any = node.args[1]
    wide = Step(_aten.reshape.default, (mark, [*with_one(sizes, place.dim)[:-1], columns]))
    return Step(linear.target, (wide, *linear.args[1:]), dict(linear.kwargs), heavy=True, absorbed=(linear, flat))


def expand(node: fx.Node, place: Cut) -> Step | None:
    operands = narrowed_operands(node, place, node.args[:1])
    if operands is None:
        return None
    return Step(node.target, (*operands, with_one(node.args[1], place.dim)), dict(node.kwargs), view=True)


def item(node: fx.Node, place: Cut) -> Step | None:
    """The narrowed form of one result of several; the operator that gives them is narrowed in the same way."""
    several: Any = node.args[0]
    if several.target not in SEVERAL:
        return None
    return Step(operator.getitem, (Narrow(several, place), node.args[1]), view=True)
