"""The sizes and places that capture wrote into operators, for the axes that remain after channels are removed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx

from recfx.analysis.channel_axes import Axis, Fixed, size_of
from recfx.analysis.channel_groups import ChannelGroups, Mask
from recfx.analysis.channel_labels import Vector
from recfx.analysis.channel_scatter import written_bounds
from recfx.analysis.channel_views import slice_bounds
from recfx.ir.op_sets import SIZED, SLICES, SPLITS
from recfx.passes._match import argument, value
from recfx.pipeline import PassContext

_aten = torch.ops.aten


class Remaining:
    """The places that remain along axes.

    Args:
        found: The coupled channels of the program.
        removed: The channels to remove.
    """

    def __init__(self, found: ChannelGroups, removed: Collection[int]) -> None:
        self.found = found
        self.removed = frozenset(removed)
        self._masks: dict[int, Mask] = {}

    def mask(self, factor: Vector) -> Mask:
        """Which places of a factor remain."""
        if id(factor) not in self._masks:
            self._masks[id(factor)] = self.found.kept(factor, self.removed)
        return self._masks[id(factor)]

    def count(self, axis: Axis) -> Any:
        """The number of remaining places of an axis, as an expression; the size of an axis without removed places."""
        return math.prod((size_of(f) if isinstance(f, Fixed) else int(self.mask(f).sum()) for f in axis), start=1)

    def changes(self, axis: Axis) -> bool:
        """Whether places of an axis are removed."""
        return any(not isinstance(f, Fixed) and not self.mask(f).all() for f in axis)

    def before(self, axis: Axis, place: int, size: int) -> int:
        """The number of remaining places of an axis in front of a place."""
        mask = self.found.kept_along(axis, self.removed, size)
        return place if mask is None else int(mask[:place].sum())


def rewrite_sizes(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    """Writes the new sizes and places into an operator whose operands lose places. Values are not recomputed."""
    rule = _RULES.get(node.target)
    if rule is not None:
        rule(ctx, node, remaining)


def _given(node: fx.Node, position: int) -> Any:
    """An argument, by position or by its name in the operator's schema."""
    return argument(node, position, _name_of(node, position))


def _give(node: fx.Node, position: int, new: Any) -> None:
    if position < len(node.args):
        node.update_arg(position, new)
    else:
        node.update_kwarg(_name_of(node, position), new)


def _name_of(node: fx.Node, position: int) -> str:
    target: Any = node.target
    return str(target._schema.arguments[position].name)


def _sized(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    axes = remaining.found.axes(node)
    place = 0 if node.target in _CREATED_FROM_SIZES else 1
    sizes = list(_given(node, place))
    lead = len(axes) - len(sizes)
    for d, size in enumerate(sizes):
        if remaining.changes(axes[lead + d]) and size != -1:
            sizes[d] = _resized(ctx, node, size, axes[lead + d], remaining)
    _give(node, place, sizes)
    if node.target is _aten.view.default:
        node.target = _aten.reshape.default  # strides of operands may differ after the removal


def _resized(ctx: PassContext, node: fx.Node, size: Any, axis: Axis, remaining: Remaining) -> Any:
    if not isinstance(size, fx.Node):
        return int(remaining.count(axis))
    labelled = [factor for factor in axis if not isinstance(factor, Fixed)]
    before = math.prod(len(factor) for factor in labelled)
    after = math.prod(int(remaining.mask(factor).sum()) for factor in labelled)
    with ctx.before(node):
        return ctx.call(operator.mul, ctx.call(operator.floordiv, size, before), after)


def _unflatten(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    dim: Any = argument(node, 1, "dim")
    sizes: Any = _given(node, 2)
    axes = remaining.found.axes(node)
    dim %= len(axes) - len(sizes) + 1
    new = [
        _resized(ctx, node, size, axis, remaining) if size != -1 and remaining.changes(axis) else size
        for size, axis in zip(sizes, axes[dim : dim + len(sizes)], strict=True)
    ]
    _give(node, 2, new)


def _repeat(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    times = list(_given(node, 1))
    source = remaining.found.axes(node.args[0])  # type: ignore[arg-type]
    axes = remaining.found.axes(node)
    operand: list[Axis] = [*[()] * (len(axes) - len(source)), *source]
    for d, (before, after) in enumerate(zip(operand, axes, strict=True)):
        if before == () and remaining.changes(after):
            times[d] = int(remaining.count(after))
    _give(node, 1, times)


def _cut_axis(node: fx.Node, position: int, default: int | None, remaining: Remaining) -> tuple[int, Axis, int] | None:
    """The dimension that an operator cuts, its axis and its size; None if this axis loses no places."""
    axes = remaining.found.axes(node.args[0])  # type: ignore[arg-type]
    dim = argument(node, position, "dim", default) % len(axes)
    held = value(node.args[0])
    if held is None or not remaining.changes(axes[dim]):
        return None
    return dim, axes[dim], int(held.shape[dim])


def _slice(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    cut, bounds = _cut_axis(node, 1, 0, remaining), slice_bounds(node)
    if cut is None or bounds is None:
        return
    dim, axis, size = cut
    start, end = (remaining.before(axis, place, size) for place in bounds)
    node.target, node.args, node.kwargs = _aten.slice.Tensor, (node.args[0], dim, start, end), {}


def _select(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    cut = _cut_axis(node, 1, None, remaining)
    if cut is not None:
        dim, axis, size = cut
        node.args, node.kwargs = (
            (node.args[0], dim, remaining.before(axis, argument(node, 2, "index") % size, size)),
            {},
        )


def _split(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    cut = _cut_axis(node, 2, 0, remaining)
    if cut is None:
        return
    dim, axis, size = cut
    sizes, start = [], 0
    for part in node.meta["val"]:
        end = start + int(part.shape[dim])
        sizes.append(remaining.before(axis, end, size) - remaining.before(axis, start, size))
        start = end
    node.target, node.args, node.kwargs = _aten.split_with_sizes.default, (node.args[0], sizes, dim), {}


def _stack(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    axes = remaining.found.axes(node)
    dim = argument(node, 1, "dim", 0) % len(axes)
    parts: Sequence[Any] = node.args[0]  # type: ignore[assignment]
    mask = remaining.found.kept_along(axes[dim], remaining.removed, len(parts))
    if mask is not None:
        _give(node, 0, [part for part, kept in zip(parts, mask, strict=True) if kept])


def _norm(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    axes, shape = remaining.found.axes(node), _given(node, 1)
    _give(node, 1, [int(remaining.count(axis)) for axis in axes[len(axes) - len(shape) :]])


def _attention(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    """The default scale of attention is 1 / sqrt(E); it must remain that of the original size E."""
    queries = value(node.args[0])
    width = remaining.found.axes(node.args[0])[-1]  # type: ignore[arg-type]
    if queries is not None and remaining.changes(width) and node.kwargs.get("scale") is None:
        node.update_kwarg("scale", 1 / math.sqrt(int(queries.shape[-1])))


def _slice_scatter(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    cut, bounds = _cut_axis(node, 2, 0, remaining), written_bounds(node)
    if cut is not None and bounds is not None:
        dim, axis, size = cut
        start, end = (remaining.before(axis, place, size) for place in bounds)
        node.args, node.kwargs = (*node.args[:2], dim, start, end), {}


def _select_scatter(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    cut = _cut_axis(node, 2, None, remaining)
    if cut is not None:
        dim, axis, size = cut
        place = remaining.before(axis, argument(node, 3, "index") % size, size)
        node.args, node.kwargs = (*node.args[:2], dim, place), {}


def _convolution(ctx: PassContext, node: fx.Node, remaining: Remaining) -> None:
    """The number of groups, of which each has as many input channels as the kernels."""
    if argument(node, 6, "groups", 1) == 1:
        return
    channels, kernel = (remaining.found.axes(operand) for operand in node.args[:2])  # type: ignore[arg-type]
    inputs = channels[len(channels) - len(kernel) + 1]
    _give(node, 6, int(remaining.count(inputs)) // int(remaining.count(kernel[1])))


_CREATED_FROM_SIZES: tuple[Any, ...] = (_aten.zeros.default, _aten.ones.default, _aten.full.default)
_CREATED_LIKE: tuple[Any, ...] = (_aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default)
_CONVOLUTIONS: tuple[Any, ...] = tuple(
    getattr(getattr(_aten, f"conv{d}d"), overload) for d in (1, 2, 3) for overload in ("default", "padding")
)

_RULES: dict[Any, Callable[[PassContext, fx.Node, Remaining], None]] = {
    **dict.fromkeys((*SIZED, *_CREATED_FROM_SIZES, *_CREATED_LIKE), _sized),
    **dict.fromkeys(SLICES, _slice),
    **dict.fromkeys(SPLITS, _split),
    **dict.fromkeys((_aten.layer_norm.default, _aten.rms_norm.default), _norm),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    _aten.slice_scatter.default: _slice_scatter,
    _aten.select_scatter.default: _select_scatter,
    _aten.unflatten.int: _unflatten,
    _aten.repeat.default: _repeat,
    _aten.select.int: _select,
    _aten.stack.default: _stack,
    _aten.scaled_dot_product_attention.default: _attention,
}
