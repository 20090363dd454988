"""Views: the same elements under other dimensions."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import COPIES, REGROUPINGS, SPLITS, SQUEEZES
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.values import Dim, Unsupported, Value, reshape

_aten = torch.ops.aten


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def drops_the_batch(node: fx.Node) -> bool:
    """Whether a node's rank depends on the batch: it squeezes a dimension that varies, which has one element in a batch of one row."""
    if node.target not in SQUEEZES:
        return False
    source: Any = node.args[0]
    held = source.meta.get("val")
    if not isinstance(held, torch.Tensor):
        return True
    given: Any = range(held.ndim) if node.target is _aten.squeeze.default else node.args[1]
    dims = [given] if isinstance(given, int) else list(given)
    return any(held.ndim and not isinstance(held.shape[d], int) for d in dims)


def _reshaped(builder: PlanBuilder, node: fx.Node) -> None:
    value, shape = builder.value(node.args[0], mixed=True), builder.shape(node)
    found = reshape(value, shape)
    if found is None:
        found = reshape(compact(builder, value), shape)
    if found is None:
        raise Unsupported("it mixes elements of several batch rows")
    builder.values[node] = found


for _target in REGROUPINGS:
    rule(_target)(_reshaped)


@rule(*COPIES, _aten.lift_fresh_copy.default)
def _same(builder: PlanBuilder, node: fx.Node) -> None:
    """Values are never written twice, so a copy can share the original's place."""
    builder.values[node] = builder.value(node.args[0], mixed=True)


@rule(_aten.transpose.int, _aten.permute.default, _aten.t.default)
def _permuted(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0], mixed=True)
    order: Any = list(range(len(value.dims)))
    arguments: Any = node.args
    if node.target is _aten.permute.default:
        order = [i % len(order) for i in arguments[1]]
    elif node.target is _aten.transpose.int:
        a, b = (int(i) % len(order) for i in arguments[1:3])
        order[a], order[b] = order[b], order[a]
    else:
        order.reverse()
    builder.values[node] = Value(value.slot, value.offset, tuple(value.dims[i] for i in order))


def narrowed(value: Value, dim: int, start: int, size: int, step: int = 1) -> Value:
    """Part of a value along one dimension that is not the batch."""
    held = value.dims[dim]
    if held.batch:
        raise Unsupported("it takes part of the batch")
    dims = list(value.dims)
    dims[dim] = Dim(size, held.stride * step)
    return Value(value.slot, value.offset + start * held.stride, tuple(dims))


def _without(value: Value, dim: int) -> Value:
    return Value(value.slot, value.offset, value.dims[:dim] + value.dims[dim + 1 :])


@rule(_aten.select.int)
def _select(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    dim, index = node.args[1:3]
    if not isinstance(dim, int) or not isinstance(index, int):
        raise Unsupported("its index varies")
    dim %= len(value.dims)
    builder.values[node] = _without(narrowed(value, dim, index % value.dims[dim].size, 1), dim)


@rule(_aten.slice.Tensor)
def _slice(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    dim = int(_argument(node, 1, "dim", 0)) % len(value.dims)
    start, end, step = _argument(node, 2, "start"), _argument(node, 3, "end"), _argument(node, 4, "step", 1)
    size = value.dims[dim].size
    if not all(isinstance(v, int) or v is None for v in (start, end, step)):
        raise Unsupported("its bounds vary")
    first, last, by = slice(start, end, step).indices(size)
    if value.dims[dim].batch:
        if start not in (None, 0) or by != 1 or (end is not None and end < 2**31):
            raise Unsupported("it takes part of the batch")
        builder.values[node] = value
        return
    builder.values[node] = narrowed(value, dim, first, len(range(first, last, by)), by)


@rule(_aten.expand.default, _aten.expand_as.default)
def _expand(builder: PlanBuilder, node: fx.Node) -> None:
    value, shape = builder.value(node.args[0]), builder.shape(node)
    added = len(shape) - len(value.dims)
    dims = []
    for i, wanted in enumerate(shape):
        held = value.dims[i - added] if i >= added else Dim(1, 0)
        if held.batch or (held.size == wanted.size and not wanted.batch):
            dims.append(held)
        else:
            dims.append(Dim(wanted.size, 0, wanted.batch))
    builder.values[node] = Value(value.slot, value.offset, tuple(dims))


#: Operators that compute several tensors: target -> function that adds the steps of one tensor, by its index.
PART_RULES: dict[Any, Callable[[PlanBuilder, fx.Node, fx.Node, int], None]] = {}


@rule(operator.getitem)
def _part(builder: PlanBuilder, node: fx.Node) -> None:
    """One part of the result of unbind, split, chunk or an operator of `PART_RULES`."""
    source: Any = node.args[0]
    index: Any = node.args[1]
    parts = source.meta.get("val")
    if source.target in PART_RULES:
        return PART_RULES[source.target](builder, node, source, index)
    if source.target not in PARTS or not isinstance(parts, list | tuple):
        raise Unsupported(f"it takes a part of {source}, whose parts are not views")
    value = builder.value(source.args[0])
    unbinds = source.target is _aten.unbind.int
    dim = int(_argument(source, 1 if unbinds else 2, "dim", 0)) % len(value.dims)
    index %= len(parts)
    if unbinds:
        builder.values[node] = _without(narrowed(value, dim, index, 1), dim)
        return
    starts = builder.known(("starts", source), lambda: _starts([p.shape[dim] for p in parts]))
    if starts is None:
        raise Unsupported("it takes part of the batch")
    builder.values[node] = narrowed(value, dim, starts[index], starts[index + 1] - starts[index])


def _starts(sizes: list[Any]) -> list[int] | None:
    """The first index of each part, and the end of the last part; None if a size varies."""
    return [0, *itertools.accumulate(sizes)] if all(isinstance(s, int) for s in sizes) else None


#: Operators whose result is several views. Plans hold the views, not the operators.
PARTS = {_aten.unbind.int, *SPLITS}


@rule(*PARTS)
def parts_rule(builder: PlanBuilder, node: fx.Node) -> None:
    """Checks that the source has a place. `_part` adds the steps of each part."""
    builder.value(node.args[0])
