"""How labels of channels travel through element-wise operators, norms, reductions and lookups."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import Along, axis_of
from recfx.analysis.axis_rules import expression
from recfx.analysis.batch_axis import held_by
from recfx.analysis.channel_axes import Axis, fixed, flat, vectors
from recfx.analysis.channel_products import unknown
from recfx.analysis.channel_walk import Axes, Read, Result, Rule, Walk, argument, dims_of, fixed_result, sizes_of


def elementwise(walk: Walk, node: fx.Node) -> Result:
    """Operands are broadcast against each other: axes of equal places are tied, axes of size one are not."""
    held = held_by(node)
    if not isinstance(held, torch.Tensor):
        return unknown(walk, node, "it has several results")
    found: list[Axis | None] = [None] * held.ndim
    for operand in node.all_input_nodes:
        axes = walk.axes(operand)
        for d, axis in enumerate(axes or ()):
            place = held.ndim - len(axes or ()) + d
            if axis == ():
                continue
            if found[place] is None:
                found[place] = axis
            else:
                walk.tie(node, found[place] or (), axis)
    return [axis if axis is not None else fixed(size) for axis, size in zip(found, held.shape, strict=True)]


def batch_norm(walk: Walk, node: fx.Node) -> Result:
    """A norm with one scale, shift, mean and variance for each place of axis 1."""
    axes = walk.axes_of(node.args[0])
    for parameter in node.args[1:5]:
        if parameter is not None:
            walk.tie(node, axes[1], walk.axes_of(parameter)[0])
    return axes


def layer_norm(walk: Walk, node: fx.Node) -> Result:
    """A norm over the last axes. Channels that are removed no longer count."""
    axes, shape = walk.axes_of(node.args[0]), node.args[1]
    lead = len(axes) - len(shape)  # type: ignore[arg-type]
    for parameter in (*node.args[2:4], *node.kwargs.values()):
        found = walk.axes(parameter)
        for axis, of_parameter in zip(axes[lead:], found or axes[lead:], strict=True):
            walk.tie(node, axis, of_parameter)
    for d in range(lead, len(axes)):
        walk.reduce(node, node.args[0], d, Read.COUNT)
    return axes


def prelu(walk: Walk, node: fx.Node) -> Result:
    axes, slopes = walk.axes_of(node.args[0]), walk.axes_of(node.args[1])
    if slopes and slopes[0] and len(axes) > 1:
        walk.tie(node, axes[1], slopes[0])
    return axes


def softmax(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    if axes:
        walk.reduce(node, node.args[0], argument(node, 1, "dim") % len(axes), Read.COUNT)
    return axes


def reduction(position: int, kind: Read) -> Rule:
    """The rule for reductions along the dimensions that an argument lists."""

    def rule(walk: Walk, node: fx.Node) -> Result:
        axes = walk.axes_of(node.args[0])
        dims = dims_of(argument(node, position, "dim"), len(axes))
        held = held_by(node)
        for d in dims:
            walk.reduce(node, node.args[0], d, kind)
        kept = isinstance(held, torch.Tensor) and held.ndim == len(axes)
        return [() if d in dims else axis for d, axis in enumerate(axes) if kept or d not in dims]

    return rule


def whole(kind: Read) -> Rule:
    """The rule for reductions of all elements to one."""

    def rule(walk: Walk, node: fx.Node) -> Result:
        for d in range(len(walk.axes_of(node.args[0]))):
            walk.reduce(node, node.args[0], d, kind)
        return []

    return rule


def glu(walk: Walk, node: fx.Node) -> Result:
    axes = walk.axes_of(node.args[0])
    dim = argument(node, 1, "dim", -1) % len(axes)
    both = flat(walk.labels, axes[dim])
    if both is None or len(both) == 2:
        return unknown(walk, node, "it halves an axis of free size, or to a single element")
    half = len(both) // 2
    walk.labels.unify(both[:half], both[half:])
    return [*axes[:dim], (both[:half],), *axes[dim + 1 :]]


def embedding(walk: Walk, node: fx.Node) -> Result:
    table, ids = walk.axes_of(node.args[0]), walk.axes_of(node.args[1])
    _keep_rows(walk, table)
    return [*ids, table[1]]


def embedding_bag(walk: Walk, node: fx.Node) -> Result:
    table = walk.axes_of(node.args[0])
    others = [axes for operand in node.all_input_nodes[1:] if (axes := walk.axes(operand)) is not None]
    _keep_rows(walk, table)
    walk.pin(node, [axis for axes in others for axis in axes], "it reads bags of ids")
    first, *rest = held_by(node)
    return [[fixed(first.shape[0]), table[1]], *([fixed(s) for s in part.shape] for part in rest)]


def _keep_rows(walk: Walk, table: Axes) -> None:
    for rows in vectors(table[:1]):
        walk.labels.pin(rows)


def size(walk: Walk, node: fx.Node) -> Result:
    """A size that the graph reads."""
    axes, dim = walk.axes_of(node.args[0]), argument(node, 1, "dim")
    walk.pin(node, axes if dim is None else [axes[dim]], "it reads the size")
    return None


def mapped(walk: Walk, node: fx.Node) -> Result:
    """An operator of `axis_maps`: an axis is followed if a place of the result reads the same place of an operand along it."""
    held = held_by(node)
    first = held[0] if isinstance(held, tuple | list) else held
    if not isinstance(first, torch.Tensor):
        return unknown(walk, node, "its result is not a tensor")
    found: list[Axis | None] = [None] * first.ndim
    for operand in node.all_input_nodes:
        axes = walk.axes(operand)
        if axes is not None:
            _follow(walk, node, operand, axes, found)
    result = [axis if axis is not None else fixed(s) for axis, s in zip(found, first.shape, strict=True)]
    if first is held:
        return result
    if all(isinstance(part, torch.Tensor) and part.shape == first.shape for part in held):
        return [result for _ in held]
    walk.pin(node, result, "its results have different shapes")
    return fixed_result(node)


def _follow(walk: Walk, node: fx.Node, operand: fx.Node, axes: Axes, found: list[Axis | None]) -> None:
    followed = set()
    sizes = [expression(s) for s in held_by(operand).shape]
    for place, wanted in enumerate(sizes_of_first(node)):
        read = axis_of(node, operand, place)
        if not isinstance(read, Along) or read.ratio != 1 or read.axis in followed or sizes[read.axis] != wanted:
            continue
        followed.add(read.axis)
        axis = axes[read.axis]
        if axis == ():
            continue
        if found[place] is None:
            found[place] = axis
        else:
            walk.tie(node, found[place] or (), axis)
    walk.pin(node, [axis for d, axis in enumerate(axes) if d not in followed], "it reads elements of other places")


def sizes_of_first(node: fx.Node) -> list[Any]:
    """The sizes of a node's first result, as expressions."""
    held = held_by(node)
    return [expression(s) for s in held[0].shape] if isinstance(held, tuple | list) else sizes_of(node)


#: Element-wise operators without torch's tag.
UNTAGGED = (
    "to.dtype to.device to.dtype_layout _to_copy type_as contiguous clone alias detach lift_fresh_copy dropout "
    "__and__.Tensor __or__.Tensor __xor__.Tensor masked_fill.Scalar masked_fill.Tensor where.Scalar where.ScalarOther "
    "where.ScalarSelf zeros_like ones_like full_like empty_like log_sigmoid"
)

#: Rule for each operator, by its name in `torch.ops.aten`.
ELEMENTWISE: dict[str, Rule] = {
    UNTAGGED: elementwise,
    "batch_norm": batch_norm,
    "layer_norm rms_norm": layer_norm,
    "prelu": prelu,
    "softmax.int log_softmax.int _softmax": softmax,
    "sum.dim_IntList any.dim any.dims": reduction(1, Read.SUM),
    "mean.dim amax amin prod.dim_int var.correction std.correction logsumexp all.dim all.dims": reduction(
        1, Read.COUNT
    ),
    "linalg_vector_norm norm.ScalarOpt_dim": reduction(2, Read.SUM),
    "sum": whole(Read.SUM),
    "mean max min": whole(Read.COUNT),
    "glu": glu,
    "embedding": embedding,
    "embedding_bag embedding_bag.padding_idx": embedding_bag,
    "sym_size.int sym_stride.int sym_numel": size,
}

#: Operators of `axis_maps` whose arguments hold no size of an axis that is followed.
MAPPED = (
    "max.dim min.dim argmax argmin cumsum cumprod flip sort argsort topk roll gather index.Tensor index_select one_hot "
    "view.dtype"
)
