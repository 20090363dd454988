"""Nodes that fold an axis in any dtype: extremes and their positions, any, all, products, counts, variance, running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Fold, Kind, Reduction
from recfx.kernels.slots import (
    FoldInt,
    FoldView,
    ReduceInt,
    ReduceView,
    RunningInt,
    RunningView,
    SpreadFloat,
    SpreadInt,
    SpreadView,
)
from recfx.targets.native.builder import PlanBuilder, three_runs, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.registry import RULES, Rule, rule
from recfx.targets.native.rules.rows import reduce_rows
from recfx.targets.native.rules.view import PART_RULES, PARTS, parts_rule
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten


#: Dtypes that the kernels read.
READ = (torch.float32, torch.bool, torch.int64, torch.int32)


def grouped(builder: PlanBuilder, value: Value, dims: list[int]) -> tuple[Value, Any]:
    """A value whose reduced dimensions are one run, copied if necessary, and its (outer, reduced, inner) runs."""
    if any(value.dims[d].batch for d in dims):
        raise Unsupported("it reduces over the batch")
    if dims != list(range(dims[0], dims[-1] + 1)):
        kept = [i for i in range(len(value.dims)) if i not in dims]
        value = Value(value.slot, value.offset, tuple(value.dims[i] for i in [*kept, *dims]))
        dims = list(range(len(kept), len(value.dims)))
    groups = three_runs(value, dims)
    if groups is None:
        value = compact(builder, value)
        groups = three_runs(value, dims)
        assert groups is not None  # it is contiguous now
    return value, groups


def axes(given: Any, rank: int) -> list[int]:
    """The dimensions that an argument names. None and an empty list mean all dimensions."""
    chosen = [given] if isinstance(given, int) else given or range(rank)
    if not rank:
        raise Unsupported("it reduces a single number")
    return sorted({int(d) % rank for d in chosen})


def _argument(node: fx.Node, name: str, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _readable(builder: PlanBuilder, operand: Any) -> Value:
    value = builder.value(operand)
    if builder.dtype(value) not in READ:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    return value


def emit_along(
    builder: PlanBuilder, node: fx.Node, operand: Any, given: Any, kind: Kind, name: int, **how: Any
) -> None:
    """Adds a step of a kind over the dimensions `given` of `operand`, its view `name`. Its output becomes the value of `node`."""
    value = _readable(builder, operand)
    value, groups = grouped(builder, value, axes(given, len(value.dims)))
    out = builder.result(node, dtypes=READ)
    outer, _, inner = groups
    builder.emit(kind, out, [(outer[0], inner[0]), (inner[0], 1)], {name: view(value, list(groups))}, **how)
    builder.values[node] = out


def emit_fold(builder: PlanBuilder, node: fx.Node, operand: Any, given: Any, fold: Fold) -> None:
    """Adds a fold of `operand` over the dimensions `given` as the value of `node`."""
    emit_along(builder, node, operand, given, Kind.FOLD, FoldView.INPUT, ints={FoldInt.FOLD: fold})


def _folds(op: Fold, position: int = 1, name: str = "dim") -> Rule:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        emit_fold(builder, node, node.args[0], _argument(node, name, position), op)

    return lower


rule(_aten.any.dim, _aten.any.dims, _aten.any.default)(_folds(Fold.ANY))
rule(_aten.all.dim, _aten.all.dims, _aten.all.default)(_folds(Fold.ALL))
rule(_aten.argmax.default)(_folds(Fold.ARGMAX))
rule(_aten.argmin.default)(_folds(Fold.ARGMIN))
rule(_aten.count_nonzero.dim_IntList, _aten.count_nonzero.default)(_folds(Fold.COUNT))


@rule(_aten.prod.dim_int, _aten.prod.default)
def _product(builder: PlanBuilder, node: fx.Node) -> None:
    if node.kwargs.get("dtype") is not None:
        raise Unsupported("it changes the dtype")
    dim = None if node.target is _aten.prod.default else node.args[1]
    emit_fold(builder, node, node.args[0], dim, Fold.PRODUCT)


def _whole_extreme(op: Fold, target: Any) -> None:
    """Registers a rule that folds integers and masks. It hands float32 to the rule of the vectorised reduction."""

    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        if node.meta["val"].dtype is torch.float32:
            return reduce_rows(builder, node)
        emit_fold(builder, node, node.args[0], _argument(node, "dim", 1, ()), op)

    rule(target, replaces=True)(lower)


_whole_extreme(Fold.MAX, _aten.amax.default)
_whole_extreme(Fold.MIN, _aten.amin.default)


def _extreme_part(value_op: Fold, position_op: Fold) -> Callable[[PlanBuilder, fx.Node, fx.Node, int], None]:
    """The rule for the values (index 0) and the positions of `max(x, dim)` or `min(x, dim)`."""

    def lower(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
        op = value_op if index == 0 else position_op
        emit_fold(builder, node, source.args[0], _argument(source, "dim", 1), op)

    return lower


PART_RULES[_aten.max.dim] = _extreme_part(Fold.MAX, Fold.ARGMAX)
PART_RULES[_aten.min.dim] = _extreme_part(Fold.MIN, Fold.ARGMIN)


def _correction(node: fx.Node) -> float:
    if node.target in (
        _aten.std.correction,
        _aten.var.correction,
        _aten.var_mean.correction,
        _aten.std_mean.correction,
    ):
        given = _argument(node, "correction", 2)
        return 1.0 if given is None else float(given)
    return float(bool(_argument(node, "unbiased", 2, True)))


def _emit_spread(builder: PlanBuilder, node: fx.Node, source: fx.Node, *, root: bool) -> None:
    if builder.dtype(builder.value(source.args[0])) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(builder.value(source.args[0]))}")
    dim = _argument(source, "dim", 1)
    ints, floats = {SpreadInt.DEVIATION: int(root)}, {SpreadFloat.CORRECTION: _correction(source)}
    emit_along(builder, node, source.args[0], dim, Kind.SPREAD, SpreadView.INPUT, ints=ints, floats=floats)


@rule(_aten.var.dim, _aten.var.correction)
def _variance(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_spread(builder, node, node, root=False)


@rule(_aten.std.dim, _aten.std.correction)
def _deviation(builder: PlanBuilder, node: fx.Node) -> None:
    _emit_spread(builder, node, node, root=True)


def _spread_part(*, root: bool) -> Callable[[PlanBuilder, fx.Node, fx.Node, int], None]:
    """The rule for the spread (index 0) and the mean of `var_mean` or `std_mean`."""

    def lower(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
        if index == 0:
            return _emit_spread(builder, node, source, root=root)
        if builder.dtype(builder.value(source.args[0])) is not torch.float32:
            raise Unsupported("its input is not float32")
        ints = {ReduceInt.REDUCTION: Reduction.MEAN}
        dim = _argument(source, "dim", 1)
        emit_along(builder, node, source.args[0], dim, Kind.REDUCE, ReduceView.INPUT, ints=ints)

    return lower


for _target in (_aten.var_mean.dim, _aten.var_mean.correction):
    PART_RULES[_target] = _spread_part(root=False)
for _target in (_aten.std_mean.dim, _aten.std_mean.correction):
    PART_RULES[_target] = _spread_part(root=True)
for _target in PART_RULES:
    PARTS.add(_target)
    rule(_target)(parts_rule)


def _runs(*, products: bool, whole: Rule | None) -> Rule:
    """The rule of running sums or products of float32; `whole` is the rule for integers."""

    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        value = builder.value(node.args[0])
        if builder.dtype(value) is not torch.float32 or node.meta["val"].dtype is not torch.float32:
            if whole is None:
                raise Unsupported(f"its input is {builder.dtype(value)}")
            return whole(builder, node)
        dim = int(_argument(node, "dim", 1)) % len(value.dims)
        if value.dims[dim].batch:
            raise Unsupported("it runs over the batch")
        value, groups = grouped(builder, value, [dim])
        out = builder.result(node)
        target = three_runs(out, [dim])
        assert target is not None
        builder.emit(
            Kind.RUNNING,
            out,
            target,
            {RunningView.INPUT: view(value, list(groups))},
            ints={RunningInt.PRODUCTS: int(products)},
        )
        builder.values[node] = out

    return lower


rule(_aten.cumsum.default, replaces=True)(_runs(products=False, whole=RULES.get(_aten.cumsum.default)))
rule(_aten.cumprod.default)(_runs(products=True, whole=None))
