"""Pools: the largest element or the mean of each window."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Reduction
from recfx.kernels.slots import ReduceInt, ReduceView
from recfx.targets.native.builder import PlanBuilder, three_runs, view
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import PART_RULES, PARTS, parts_rule
from recfx.targets.native.rules.windows import Window, image, numbers, opened, side_by_side, windows_of, with_edges
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten

_ONE_DIMENSION = (
    *(_aten.max_pool1d.default, _aten.avg_pool1d.default),
    *(_aten.adaptive_avg_pool1d.default, _aten.adaptive_max_pool1d.default),
)


@rule(_aten.max_pool1d.default, _aten.max_pool2d.default, _aten.avg_pool1d.default, _aten.avg_pool2d.default)
def _pool(builder: PlanBuilder, node: fx.Node) -> None:
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
    given: dict[str, Any] = {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}
    largest = "dilation" in names
    rank = 1 if target in _ONE_DIMENSION else 2
    sizes = numbers(given["kernel_size"], rank)
    chosen = windows_of(sizes, given["stride"] or sizes, given["padding"], given.get("dilation", 1))
    value = image(builder, node.args[0], rank)
    if given["ceil_mode"]:
        chosen = [_with_the_rest(w, d.size) for w, d in zip(chosen, value.dims[2:], strict=True)]
    if not largest:
        _require_even_means(given, chosen)
    _emit_pool(builder, node, value, chosen, largest=largest)


def _with_the_rest(w: Window, length: int) -> Window:
    """The windows along `length` elements, with one more for the elements behind the last whole window.

    torch drops it if it would start behind the elements and the padding in front of them.
    """
    free = length + 2 * w.before - w.spread * (w.size - 1) - 1
    count = -(-free // w.step) + 1
    if (count - 1) * w.step >= length + w.before:
        count -= 1
    needed = (count - 1) * w.step + w.spread * (w.size - 1) + 1 - length - w.before
    return dataclasses.replace(w, after=max(needed, 0))


def _require_even_means(given: dict[str, Any], chosen: Sequence[Window]) -> None:
    """Refuses means over different numbers of elements.

    Raises:
        Unsupported: Some windows have fewer elements than others, or another divisor.
    """
    if given.get("divisor_override") is not None:
        raise Unsupported("it has a divisor")
    if any(w.after > w.before for w in chosen):
        raise Unsupported("its last window has fewer elements than the others")
    if any(w.before for w in chosen) and not given["count_include_pad"]:
        raise Unsupported("windows at the edges have fewer elements than the others")


def _adaptive(builder: PlanBuilder, node: fx.Node, source: fx.Node, *, largest: bool) -> None:
    """A pool into a given number of windows, which must divide the elements evenly."""
    rank = 1 if source.target in _ONE_DIMENSION else 2
    value = image(builder, source.args[0], rank)
    given: Any = source.args[1]
    wanted = [given] * rank if isinstance(given, int) else list(given)
    chosen = []
    for count, dim in zip(wanted, value.dims[2:], strict=True):
        if not isinstance(count, int) or count < 1 or dim.size % count:
            raise Unsupported(f"{count} windows do not divide {dim.size} elements evenly")
        size = dim.size // count
        chosen.append(Window(size, size, 1, 0, 0))
    _emit_pool(builder, node, value, chosen, largest=largest)


@rule(_aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default)
def _adaptive_mean(builder: PlanBuilder, node: fx.Node) -> None:
    _adaptive(builder, node, node, largest=False)


def _adaptive_largest(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
    if index != 0:
        raise Unsupported("it gives the positions of the largest elements")
    _adaptive(builder, node, source, largest=True)


for _target in (_aten.adaptive_max_pool1d.default, _aten.adaptive_max_pool2d.default):
    PARTS.add(_target)
    PART_RULES[_target] = _adaptive_largest
    rule(_target)(parts_rule)


def _emit_pool(builder: PlanBuilder, node: fx.Node, value: Value, chosen: Sequence[Window], *, largest: bool) -> None:
    """Adds the step that reduces each window of an input [B, channels, ...]."""
    value = with_edges(builder, value, chosen, 2, -math.inf if largest else 0.0)
    starts, inside = opened(value, chosen, 2)
    spread = Value(value.slot, value.offset, (*value.dims[:2], *starts, *inside))
    dims = list(range(len(spread.dims) - len(chosen), len(spread.dims)))
    groups = three_runs(spread, dims)
    if groups is None:
        spread = side_by_side(builder, spread, dims[0])
        groups = three_runs(spread, dims)
        assert groups is not None  # it is contiguous now
    out = builder.temp((*value.dims[:2], *starts))
    outer, _, inner = groups
    builder.emit(
        Kind.REDUCE,
        out,
        [(outer[0], inner[0]), (inner[0], 1)],
        {ReduceView.INPUT: view(spread, list(groups))},
        ints={ReduceInt.REDUCTION: Reduction.MAX if largest else Reduction.MEAN},
    )
    builder.values[node] = out
