"""Where a selection cuts into a tensor, and the marks that say so; see `narrowing`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.analysis.axis_maps import WHOLE, Along, axis_of, expression
from recfx.ir.access import tensor_of


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a selection cuts into a tensor.

    Attributes:
        dim: The dimension it selects along.
        row: The dimension that holds the batch, when every row selects its own position; None when all select the same.
        repeat: How many consecutive entries of `row` belong to one row of the batch (heads merged into it).
        lift: The tensor lacks leading dimensions: it counts as one of this rank, broadcast along `row`. 0 for no lift.
    """

    dim: int
    row: int | None = None
    repeat: int = 1
    lift: int = 0


@dataclasses.dataclass(frozen=True)
class Narrow:
    """Marks an input that is to be narrowed at a place."""

    node: fx.Node
    place: Cut


@dataclasses.dataclass(frozen=True)
class CausalRows:
    """Marks the rows of a causal mask [length, length], to be narrowed at a place."""

    length: int
    place: Cut


@dataclasses.dataclass(frozen=True)
class Step:
    """What stands in an operator's place once it is narrowed.

    Attributes:
        target: The operator.
        args: Its arguments, with marks.
        kwargs: Its keyword arguments.
        heavy: Whether it computes or reads enough for narrowing it to pay.
        view: Whether it costs next to nothing, so that it may be done twice.
        absorbed: Operators before it that it also stands for.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    heavy: bool = False
    view: bool = False
    absorbed: tuple[fx.Node, ...] = ()


def narrowed_operands(node: fx.Node, place: Cut, operands: Sequence[Any]) -> tuple[Any, ...] | None:
    """Operands of an operator whose result is narrowed, with marks where they are to be narrowed in turn.

    Args:
        node: The operator.
        place: Where its result is selected.
        operands: Its arguments. Operands that all positions read as a whole stay as they are.

    Returns:
        The arguments; None when positions of the result do not read positions of their own.
    """
    found: list[Any] = []
    for operand in operands:
        mark = operand
        if isinstance(operand, list | tuple):
            several = narrowed_operands(node, place, operand)
            mark = None if several is None else list(several)
        elif isinstance(operand, fx.Node):
            mark = _narrowed(node, operand, place)
        if mark is None and operand is not None:
            return None
        found.append(mark)
    return tuple(found)


def _narrowed(node: fx.Node, operand: fx.Node, place: Cut) -> Any:
    dim = axis_of(node, operand, place.dim)
    if dim is WHOLE:
        return operand
    if not isinstance(dim, Along) or dim.ratio != 1:
        return None
    if place.row is None:
        return Narrow(operand, Cut(dim.axis))
    row = axis_of(node, operand, place.row)
    if isinstance(row, Along):
        repeat = place.repeat * row.ratio
        return Narrow(operand, Cut(dim.axis, row.axis, int(repeat))) if repeat.denominator == 1 else None
    out, held = out_of(node), out_of(operand)
    if row is not WHOLE or dim.axis != place.dim - out.ndim + held.ndim:
        return None
    return Narrow(operand, dataclasses.replace(place, lift=out.ndim))


def is_one(size: Any) -> bool:
    return bool(expression(size) == 1)


def out_of(node: fx.Node) -> torch.Tensor:
    held = tensor_of(node)
    return held


def node_of(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument
