"""Top-k, sorts and their positions along an axis."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Ties
from recfx.kernels.slots import OrderInt, OrderView
from recfx.targets.native.builder import PlanBuilder, three_runs, view
from recfx.targets.native.rules.fold import READ, grouped
from recfx.targets.native.rules.integer import emit_take
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import PART_RULES, PARTS
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten

_SORTS = (_aten.sort.default, _aten.sort.stable)
_ARGSORTS = (_aten.argsort.default, _aten.argsort.stable)

#: torch's sort keeps the order of equal elements in lists of up to this many, even without `stable`.
_STABLE_LENGTH = 16


@rule(_aten.topk.default)
def _top(builder: PlanBuilder, node: fx.Node) -> None:
    ties = Ties.CHOSEN if _argument(node, "sorted", True) else Ties.CHOSEN_UNSORTED
    value, dim = _ordered(builder, node)
    count, largest = _argument(node, "k", 0), _argument(node, "largest", True)
    rising = _is_only_sorted(node, dim)
    builder.parts[node] = [_emit_positions(builder, value, dim, count, largest, ties, rising=rising)]


@rule(*_SORTS)
def _sort(builder: PlanBuilder, node: fx.Node) -> None:
    value, dim = _ordered(builder, node)
    if _is_rising(node.args[0], dim):
        builder.parts[node] = []
        return
    if any(user.args[1] == 1 and user.users for user in node.users):
        _require_fixed_order(builder, node)
    size, largest = value.dims[dim].size, _argument(node, "descending", False)
    builder.parts[node] = [_emit_positions(builder, value, dim, size, largest, Ties.STABLE)]


@rule(*_ARGSORTS)
def _sorted_positions(builder: PlanBuilder, node: fx.Node) -> None:
    _require_fixed_order(builder, node)
    value, dim = _ordered(builder, node)
    size, largest = value.dims[dim].size, _argument(node, "descending", False)
    builder.values[node] = _emit_positions(builder, value, dim, size, largest, Ties.STABLE)


def _part(builder: PlanBuilder, node: fx.Node, source: fx.Node, index: int) -> None:
    """The values (index 0) or the positions of a top-k or a sort."""
    if source not in builder.parts:
        raise Unsupported(f"{source} is not in the plan")
    if not builder.parts[source]:
        builder.values[node] = builder.value(source.args[0])
        return
    (positions,) = builder.parts[source]
    if index == 1:
        builder.values[node] = positions
        return
    value, dim = _ordered(builder, source)
    strides = [
        (0 if i == dim else d.stride, p.stride) for i, (d, p) in enumerate(zip(value.dims, positions.dims, strict=True))
    ]
    held = value.dims[dim]
    emit_take(builder, node, value, positions, strides, held.stride, held.size, False)


for _target in (_aten.topk.default, *_SORTS):
    PARTS.add(_target)
    PART_RULES[_target] = _part


def _argument(node: fx.Node, name: str, default: Any) -> Any:
    """An argument by its name in the operator's schema, or its default."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    position = [argument.name for argument in schema.arguments].index(name)
    found = node.args[position] if len(node.args) > position else node.kwargs.get(name)
    return default if found is None else found


def _ordered(builder: PlanBuilder, node: fx.Node) -> tuple[Value, int]:
    """The input of an operator that orders, and its axis."""
    value = builder.value(node.args[0])
    if builder.dtype(value) not in READ:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    if not value.dims:
        raise Unsupported("it orders a single number")
    dim = int(_argument(node, "dim", -1)) % len(value.dims)
    if value.dims[dim].batch:
        raise Unsupported("it orders the batch")
    return value, dim


def _require_fixed_order(builder: PlanBuilder, node: fx.Node) -> None:
    """Refuses a sort whose positions of equal elements torch leaves open.

    Raises:
        Unsupported: torch may give equal elements another order than the kernel.
    """
    value, dim = _ordered(builder, node)
    if node.target in (_aten.sort.stable, _aten.argsort.stable) and _argument(node, "stable", False):
        return
    if value.dims[dim].size > _STABLE_LENGTH and not _are_positions(node.args[0], dim):
        raise Unsupported("torch gives equal elements an order of its own: pass stable=True to sort")


def _are_positions(node: Any, dim: int) -> bool:
    """Whether the elements along an axis are positions along the same axis of another tensor, so that all differ."""
    ordered = node
    if node.target is operator.getitem:
        ordered, index = node.args
        if index != 1 or ordered.target not in (_aten.topk.default, *_SORTS):
            return False
    elif node.target not in _ARGSORTS:
        return False
    rank = node.meta["val"].ndim
    return bool(int(_argument(ordered, "dim", -1)) % rank == dim)


def _is_only_sorted(top: fx.Node, dim: int) -> bool:
    """Whether only rising sorts along its axis read a top-k, and only its positions.

    The positions of those sorts must have no reader. The top-k then chooses its positions in rising order at once.
    """
    read = [user for user in top.users if user.users]
    if not read or any(user.args[1] != 1 for user in read):
        return False
    return all(_sorts_rising(user, dim) for part in read for user in part.users)


def _sorts_rising(node: fx.Node, dim: int) -> bool:
    """Whether a node is a rising sort along an axis whose positions have no reader."""
    if node.target not in _SORTS or _argument(node, "descending", False):
        return False
    rank = node.all_input_nodes[0].meta["val"].ndim
    same = int(_argument(node, "dim", -1)) % rank == dim
    return same and not any(part.args[1] == 1 and part.users for part in node.users)


def _is_rising(node: Any, dim: int) -> bool:
    """Whether a node is the positions of a top-k that are chosen in rising order along an axis."""
    if node.target is not operator.getitem or node.args[1] != 1 or node.args[0].target is not _aten.topk.default:
        return False
    own = int(_argument(node.args[0], "dim", -1)) % node.meta["val"].ndim
    return own == dim and _is_only_sorted(node.args[0], dim)


def _emit_positions(
    builder: PlanBuilder, value: Value, dim: int, count: Any, largest: bool, ties: Ties, *, rising: bool = False
) -> Value:
    """Adds a step for the positions of the first `count` elements along an axis."""
    if not isinstance(count, int):
        raise Unsupported("the number of its results varies")
    if count == 0:
        raise Unsupported("it has no results")
    shape = [dataclasses.replace(d, size=count) if i == dim else d for i, d in enumerate(value.dims)]
    read, groups = grouped(builder, value, [dim])
    out = builder.temp(shape, torch.int64)
    target = three_runs(out, [dim])
    assert target is not None  # it is contiguous
    ints = {OrderInt.LARGEST: int(largest), OrderInt.TIES: ties, OrderInt.RISING: int(rising)}
    builder.emit(Kind.ORDER, out, target, {OrderView.INPUT: view(read, list(groups))}, ints=ints)
    return out
