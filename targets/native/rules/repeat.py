"""Nodes that repeat elements, tensors of one repeated number, and ranges. Nothing is copied where strides of zero suffice."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.kernels.codes import Kind
from recfx.kernels.slots import RowNumbersInt
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.copies import copy
from recfx.targets.native.rules.pointwise import COPIED
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.values import Dim, Unsupported, Value, contiguous

_aten = torch.ops.aten


@rule(_aten.repeat_interleave.self_int)
def _each_several_times(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    arguments: Any = node.args
    times = arguments[1]
    given: Any = arguments[2] if len(arguments) > 2 else node.kwargs.get("dim")
    if given is None or not isinstance(times, int):
        raise Unsupported("it flattens, or its number of repeats is a tensor")
    dim = given % len(value.dims)
    _emit_repeat(builder, node, value, [times if d == dim else 1 for d in range(len(value.dims))], inner=True)


@rule(_aten.repeat.default, _aten.tile.default)
def _all_several_times(builder: PlanBuilder, node: fx.Node) -> None:
    value = builder.value(node.args[0])
    times = items_of(node, 1)
    rank = max(len(times), len(value.dims))
    times = [1] * (rank - len(times)) + times
    value = Value(value.slot, value.offset, (*[Dim(1, 0)] * (rank - len(value.dims)), *value.dims))
    _emit_repeat(builder, node, value, times, inner=False)


def _emit_repeat(builder: PlanBuilder, node: fx.Node, value: Value, times: list[Any], *, inner: bool) -> None:
    """Repeats each dimension as often as `times` says: each element in turn with `inner`, otherwise the whole dimension."""
    shape = builder.shape(node)
    sources: list[Dim] = []
    pairs: list[int] = []  # dimensions of the output that are two dimensions of the source
    for at, (held, count, wanted) in enumerate(zip(value.dims, times, shape, strict=True)):
        if wanted.batch:
            if not held.batch and held.size != 1:
                raise Unsupported("it repeats rows along the batch")
            if held.batch and held.size != wanted.size:
                raise Unsupported("it repeats the batch")
            sources.append(held if held.batch else Dim(wanted.size, 0, True))
        elif held.size == 1 or count == 1:
            sources.append(held if count == 1 else Dim(wanted.size, 0))
        else:
            pairs.append(at)
            sources += [held, Dim(count, 0)] if inner else [Dim(count, 0), held]
    repeated = Value(value.slot, value.offset, tuple(sources))
    if not pairs:
        builder.values[node] = repeated
        return
    spread = builder.temp(sources, node.meta["val"].dtype)
    copy(builder, repeated, spread)
    builder.values[node] = contiguous(spread.slot, shape)


def _emit_fill(builder: PlanBuilder, node: fx.Node, number: Any) -> None:
    held: torch.Tensor = node.meta["val"]
    if not isinstance(number, int | float) or held.dtype not in COPIED:
        raise Unsupported(f"it fills a tensor of {held.dtype} with {number!r}")
    constant = builder.constant(torch.full((1,), number, dtype=held.dtype))
    dims = tuple(Dim(d.size, 0, d.batch) for d in builder.shape(node))
    builder.values[node] = Value(constant.slot, constant.offset, dims)


@rule(_aten.arange.default, _aten.arange.start, _aten.arange.start_step)
def _range(builder: PlanBuilder, node: fx.Node) -> None:
    given: Any = node.args
    if not all(isinstance(bound, int | float) for bound in given):
        return _emit_row_numbers(builder, node)
    builder.values[node] = builder.constant(torch.arange(*given, dtype=node.meta["val"].dtype))


def _emit_row_numbers(builder: PlanBuilder, node: fx.Node) -> None:
    """A range as long as the batch: the number of each batch row."""
    given: Any = node.args
    start, by = (given[0] if len(given) > 1 else 0), (given[2] if len(given) > 2 else 1)
    if not isinstance(start, int) or not isinstance(by, int):
        raise Unsupported("its start or step varies")
    out = builder.result(node, dtypes=(torch.int64, torch.int32, torch.float32))
    count = out.dims[0].size
    ints = {RowNumbersInt.START: start, RowNumbersInt.STEP: by, RowNumbersInt.COUNT: count}
    builder.emit(Kind.ROW_NUMBERS, out, [(count, 1)], {}, ints=ints)
    builder.values[node] = out


def numbers_rows(builder: PlanBuilder, value: Value) -> bool:
    """Whether a value is the number of its batch row; its other dimensions have one element."""
    made = next((step for step in builder.writers(value.slot) if step.kind is Kind.ROW_NUMBERS), None)
    plain = {RowNumbersInt.START: 0, RowNumbersInt.STEP: 1, RowNumbersInt.COUNT: 1}
    return made is not None and made.ints == plain and value.batched and value.width == 1


@rule(_aten.zeros.default, _aten.new_zeros.default, _aten.zeros_like.default)
def _zeros(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_fill(builder, node, 0)


@rule(_aten.ones.default, _aten.new_ones.default, _aten.ones_like.default)
def _ones(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_fill(builder, node, 1)


@rule(_aten.full.default, _aten.full_like.default)
def _full(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_fill(builder, node, node.args[1])


@rule(_aten.new_full.default)
def _new_full(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_fill(builder, node, node.args[2])
