"""How labels of channels travel through operators that move, join, divide, select or repeat elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from recfx.analysis.axis_rules import expression, order_of
from recfx.analysis.batch_axis import held_by
from recfx.analysis.channel_axes import Axis, fixed, flat, regrouped, vectors
from recfx.analysis.channel_labels import Vector
from recfx.analysis.channel_walk import Axes, Result, Rule, Walk, argument, dims_of, sizes_of


def reshape(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    found = regrouped(walk.labels, axes, sizes_of(node))
    if found is None:
        walk.pin(node, axes, "it divides and merges axes at the same time")
        return [fixed(size) for size in sizes_of(node)]
    return found


def permute(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    return [axes[d] for d in order_of(node, len(axes))]


def unsqueeze(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    place = argument(node, 1, "dim") % (len(axes) + 1)
    return [*axes[:place], (), *axes[place:]]


def squeeze(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    dims = dims_of(argument(node, 1, "dim"), len(axes))
    sizes = [expression(size) for size in held_by(node.args[0]).shape]
    gone = {d for d in dims if sizes[d] == 1}
    walk.pin(node, [axes[d] for d in dims - gone], "it would remove an axis that is pruned to one element")
    return [axis for d, axis in enumerate(axes) if d not in gone]


def expand(walk: Walk, node: fx.Node) -> Result:
    """Repeats axes of size one; the new places are channels of their own, since all of them read the same elements."""
    axes, sizes = walk.axes_of(node.args[0]), sizes_of(node)
    before = [*[()] * (len(sizes) - len(axes)), *axes]
    return [walk.fresh(size) if axis == () else axis for axis, size in zip(before, sizes, strict=True)]


def expand_as(walk: Walk, node: fx.Node) -> Result:
    axes, like = walk.axes_of(node.args[0]), walk.axes_of(node.args[1])
    lead = len(like) - len(axes)
    for d, axis in enumerate(axes):
        if axis:
            walk.tie(node, axis, like[lead + d])
    return like


def repeat(walk: Walk, node: fx.Node) -> Result:
    axes, sizes = walk.axes_of(node.args[0]), sizes_of(node)
    times: Any = argument(node, 1, "repeats")
    axes = [*[()] * (len(sizes) - len(axes)), *axes]
    found: Axes = []
    for axis, size, count in zip(axes, sizes, times, strict=True):
        if axis == ():
            found.append(walk.fresh(size))
        elif isinstance(count, int) and count == 1:
            found.append(axis)
        else:
            whole = flat(walk.labels, axis) if isinstance(count, int) else None
            if whole is None:
                walk.pin(node, [axis], "it repeats an axis of free size")
            found.append(fixed(size) if whole is None else (np.tile(whole, count),))
    return found


def repeat_interleave(walk: Walk, node: fx.Node) -> Result:
    axes, dim, count = walk.axes_of(node.args[0]), argument(node, 2, "dim"), argument(node, 1, "repeats")
    if dim is None or not isinstance(count, int) or not axes[dim]:
        walk.pin(node, axes, "it repeats elements in a way that is not followed")
        return [fixed(size) for size in sizes_of(node)]
    dim %= len(axes)
    whole = flat(walk.labels, axes[dim])
    if whole is None:
        walk.pin(node, [axes[dim]], "it repeats an axis of free size")
    after = fixed(sizes_of(node)[dim]) if whole is None else (np.repeat(whole, count),)
    return [*axes[:dim], after, *axes[dim + 1 :]]


def pad(walk: Walk, node: fx.Node) -> Result:
    axes, amounts = walk.axes_of(node.args[0]), argument(node, 1, "pad")
    padded = {len(axes) - 1 - i // 2 for i, amount in enumerate(amounts) if amount != 0}
    walk.pin(node, [axes[d] for d in padded], "it pads the axis")
    return [
        fixed(size) if d in padded else axis for d, (axis, size) in enumerate(zip(axes, sizes_of(node), strict=True))
    ]


def created(walk: Walk, node: fx.Node) -> Result:
    """A tensor of equal elements of given sizes."""
    return [walk.fresh(size) for size in sizes_of(node)]


def cat(walk: Walk, node: fx.Node) -> Result:
    parts: Any = node.args[0]
    listed = [(part, axes) for part in parts if (axes := walk.axes(part)) is not None]
    rank = len(sizes_of(node))
    listed = [(part, axes) for part, axes in listed if len(axes) == rank]  # an empty vector is left out by torch
    dim = argument(node, 1, "dim", 0) % rank
    found = _tied(walk, node, [axes for _, axes in listed], {dim})
    along = [flat(walk.labels, axes[dim]) for _, axes in listed]
    if len(along) == 1:
        found[dim] = listed[0][1][dim]
    elif any(part is None for part in along):
        walk.pin(node, [axes[dim] for _, axes in listed], "it concatenates along an axis of free size")
        found[dim] = fixed(sizes_of(node)[dim])
    else:
        found[dim] = _axis(np.concatenate([part for part in along if part is not None]))
    return found


def _axis(vector: Vector) -> Axis:
    return () if len(vector) == 1 else (vector,)


def _tied(walk: Walk, node: fx.Node, operands: list[Axes], without: set[int]) -> Axes:
    """The axes of several operands of one shape, which are tied except along some axes."""
    first, *others = operands
    for axes in others:
        for d, axis in enumerate(axes):
            if d not in without:
                walk.tie(node, first[d], axis)
    return list(first)


def stack(walk: Walk, node: fx.Node) -> Result:
    """Stacks tensors of one shape. Removing a place of the new axis removes an operand."""
    parts: Any = node.args[0]
    found = _tied(walk, node, [walk.axes_of(part) for part in parts], set())
    place = argument(node, 1, "dim", 0) % (len(found) + 1)
    new = walk.fresh(len(parts))
    walk.stacked += vectors([new])
    return [*found[:place], new, *found[place:]]


def split(walk: Walk, node: fx.Node) -> Result:
    """Any split into consecutive parts; the sizes of the parts are read from the result."""
    axes = walk.axes_of(node.args[0])
    dim, held = argument(node, 2, "dim", 0) % len(axes), held_by(node)
    whole = flat(walk.labels, axes[dim])
    if whole is None:
        walk.pin(node, [axes[dim]], "it divides an axis of free size")
        return [[*axes[:dim], fixed(part.shape[dim]), *axes[dim + 1 :]] for part in held]
    found, start = [], 0
    for part in held:
        size = int(part.shape[dim])
        found.append([*axes[:dim], _taken(walk, node, whole[start : start + size]), *axes[dim + 1 :]])
        start += size
    return found


def _taken(walk: Walk, node: fx.Node, part: Vector) -> Axis:
    """The axis of some places of another one. A single place must stay, so that the axis is not empty."""
    if len(part) == 1:
        walk.pin_labels(node, [part], "it selects a single element")
    return _axis(part)


def slice_(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    dim = argument(node, 1, "dim", 0) % len(axes)
    bounds = slice_bounds(node)
    size = sizes_of(node)[dim]
    if not axes[dim] or size == expression(held_by(node.args[0]).shape[dim]):
        return axes
    whole = flat(walk.labels, axes[dim])
    if whole is None or bounds is None:
        walk.pin(node, [axes[dim]], "it takes a part of an axis of free size, or with a step")
        return [*axes[:dim], fixed(size), *axes[dim + 1 :]]
    start, end = bounds
    return [*axes[:dim], _taken(walk, node, whole[start:end]), *axes[dim + 1 :]]


def slice_bounds(node: fx.Node) -> tuple[int, int] | None:
    """The first place that a slice with step one takes, and the place behind its last one; None for another slice."""
    source = held_by(node.args[0])
    dim = argument(node, 1, "dim", 0)
    size = source.shape[dim]
    if node.target is torch.ops.aten.narrow.default:
        start, length = argument(node, 2, "start"), argument(node, 3, "length")
        if not all(isinstance(item, int) for item in (start, length, size)):
            return None
        start %= size
        return start, start + length
    return bounds_within(size, argument(node, 2, "start"), argument(node, 3, "end"), argument(node, 4, "step", 1))


def bounds_within(size: Any, start: Any, end: Any, step: Any) -> tuple[int, int] | None:
    """The first place of an axis that a slice takes, and the place behind its last one; None with a step or free sizes."""
    if step != 1 or not isinstance(size, int):
        return None
    if not all(item is None or isinstance(item, int) for item in (start, end)):
        return None
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


def select(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    dim, place = argument(node, 1, "dim") % len(axes), argument(node, 2, "index")
    whole = flat(walk.labels, axes[dim])
    if whole is None or not isinstance(place, int):
        walk.pin(node, [axes[dim]], "it selects one place of an axis")
    else:
        place %= len(whole)
        walk.pin_labels(node, [whole[place : place + 1]], "it selects a single element")
    return [*axes[:dim], *axes[dim + 1 :]]


def unbind(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    dim = argument(node, 1, "dim", 0) % len(axes)
    walk.pin(node, [axes[dim]], "each place of the axis is a result")
    return [[*axes[:dim], *axes[dim + 1 :]] for _ in held_by(node)]


def item(walk: Walk, node: fx.Node) -> Result:
    several: Any = walk.found.get(node.args[0])  # type: ignore[arg-type]
    place = node.args[1]
    return several[place] if several is not None and isinstance(place, int) else None


#: Rule for each operator, by its name in `torch.ops.aten`.
VIEWS: dict[str, Rule] = {
    "reshape view _unsafe_view flatten.using_ints unflatten.int": reshape,
    "unsqueeze": unsqueeze,
    "squeeze squeeze.dim squeeze.dims": squeeze,
    "expand": expand,
    "expand_as": expand_as,
    "repeat": repeat,
    "repeat_interleave.self_int": repeat_interleave,
    "pad constant_pad_nd": pad,
    "zeros ones full new_zeros new_ones new_full": created,
    "cat concat": cat,
    "stack": stack,
    "slice.Tensor narrow": slice_,
    "select.int": select,
    "unbind.int": unbind,
}
