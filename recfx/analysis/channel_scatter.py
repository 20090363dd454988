"""How labels of channels travel through operators that write a tensor into places of another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.analysis.channel_axes import flat
from recfx.analysis.channel_views import bounds_within
from recfx.analysis.channel_walk import Axes, Result, Rule, Walk, argument, sizes_of

_PLACES = "it writes to places that indices give"


def scatter(walk: Walk, node: fx.Node) -> Result:
    """`result[index[i, c], c] = src[i, c]`, or a sum of such elements: along axes other than `dim`, places do not mix."""
    axes, dim = walk.axes_of(node.args[0]), _dim(walk, node)
    for operand in node.args[2:4]:
        _tie_others(walk, node, axes, operand, dim)
    return axes


def index_write(walk: Walk, node: fx.Node) -> Result:
    """`result[index[i], c] = src[i, c]`, or a sum of such elements."""
    axes, dim = walk.axes_of(node.args[0]), _dim(walk, node)
    walk.pin(node, walk.axes_of(node.args[2]), _PLACES)
    _tie_others(walk, node, axes, node.args[3], dim)
    return axes


def _dim(walk: Walk, node: fx.Node) -> int:
    """The dimension along which an operator writes; its places stay."""
    axes = walk.axes_of(node.args[0])
    dim: int = argument(node, 1, "dim") % max(len(axes), 1)
    walk.pin(node, axes[dim : dim + 1], _PLACES)
    return dim


def _tie_others(walk: Walk, node: fx.Node, axes: Axes, operand: Any, dim: int) -> None:
    """Ties the axes of an operand to those of the result, except along `dim`. An operand may be smaller: then both stay."""
    found = walk.axes(operand)
    if found is None:
        return
    own, sizes = sizes_of(operand), sizes_of(node)
    for d, axis in enumerate(found):
        if d == dim:
            walk.pin(node, [axis], _PLACES)
        elif own[d] == sizes[d]:
            walk.tie(node, axes[d], axis)
        else:
            walk.pin(node, [axes[d], axis], "it writes to a part of the axis")


def slice_scatter(walk: Walk, node: fx.Node) -> Result:
    """Replaces consecutive places of an axis by a tensor, which loses the same places."""
    axes, source = walk.axes_of(node.args[0]), walk.axes_of(node.args[1])
    dim: int = argument(node, 2, "dim", 0) % len(axes)
    for d, axis in enumerate(axes):
        if d != dim:
            walk.tie(node, axis, source[d])
    bounds = written_bounds(node)
    whole, part = flat(walk.labels, axes[dim]), flat(walk.labels, source[dim])
    if whole is None or part is None or bounds is None:
        walk.pin(node, [axes[dim], source[dim]], "it writes to a part of an axis of free size, or with a step")
        return axes
    start, end = bounds
    if end - start == 1:
        walk.pin_labels(node, [whole[start:end]], "it writes a single element")
    else:
        walk.labels.unify(whole[start:end], part)
    return axes


def written_bounds(node: fx.Node) -> tuple[int, int] | None:
    """The first place that `slice_scatter` writes, and the place behind its last one; None with a step or free sizes."""
    held: torch.Tensor = node.meta["val"]
    size = held.shape[argument(node, 2, "dim", 0)]
    return bounds_within(size, argument(node, 3, "start"), argument(node, 4, "end"), argument(node, 5, "step", 1))


def select_scatter(walk: Walk, node: fx.Node) -> Result:
    """Replaces one place of an axis, which stays, by a tensor."""
    axes, source = walk.axes_of(node.args[0]), walk.axes_of(node.args[1])
    dim, place = argument(node, 2, "dim") % len(axes), argument(node, 3, "index")
    for axis, of_source in zip([*axes[:dim], *axes[dim + 1 :]], source, strict=True):
        walk.tie(node, axis, of_source)
    whole = flat(walk.labels, axes[dim])
    if whole is None or not isinstance(place, int):
        walk.pin(node, [axes[dim]], "it writes to one place of an axis of free size")
    else:
        place %= len(whole)
        walk.pin_labels(node, [whole[place : place + 1]], "it writes a single element")
    return axes


#: Rule for each operator, by its name in `torch.ops.aten`.
SCATTERS: dict[str, Rule] = {
    "scatter.src scatter.value scatter_add scatter_reduce.two": scatter,
    "index_add index_copy": index_write,
    "slice_scatter": slice_scatter,
    "select_scatter": select_scatter,
}
