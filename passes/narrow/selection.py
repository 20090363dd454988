"""Where a selection cuts into a tensor, and the marks that say so; see `_sink`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.passes._match import value


@dataclasses.dataclass(frozen=True)
class Place:
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
    place: Place


@dataclasses.dataclass(frozen=True)
class CausalRows:
    """Marks the rows of a causal mask [length, length], to be narrowed at a place."""

    length: int
    place: Place


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


def same_place(operand: Any, out: torch.Tensor, place: Place) -> Any:
    """An operand broadcast against `out`, narrowed where `out` is; itself when it does not vary along that dimension."""
    held = value(operand)
    if held is None:
        return operand
    shift = out.ndim - held.ndim
    if place.dim < shift or is_one(held.shape[place.dim - shift]):
        return operand
    if place.row is None:
        return Narrow(operand, Place(place.dim - shift))
    if place.row < shift or is_one(held.shape[place.row - shift]):
        return Narrow(operand, dataclasses.replace(place, lift=out.ndim))
    return Narrow(operand, Place(place.dim - shift, place.row - shift, place.repeat))


def expression(size: Any) -> sympy.Expr:
    """A size as an expression; comparing these never fixes a free dimension."""
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def is_one(size: Any) -> bool:
    return bool(expression(size) == 1)


def out_of(node: fx.Node) -> torch.Tensor:
    held = tensor_of(node)
    return held


def moved(node: Any, place: Place, new: Callable[[int], int]) -> Narrow:
    row = None if place.row is None else new(place.row)
    return Narrow(node, Place(new(place.dim), row, place.repeat))


def node_of(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument
