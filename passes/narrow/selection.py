"""Selections of one entry along a dimension (cuts), and narrowed operators as data; see `narrowing`."""

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
    """A selection of one entry along a dimension of a tensor.

    Attributes:
        dim: The dimension.
        row: The dimension of the batch, if every row selects its own position; None if all rows select the same.
        repeat: The number of consecutive entries of `row` for each row of the batch (heads that are merged into it).
        lift: The rank to which the tensor is broadcast along `row`, if it lacks leading dimensions; otherwise 0.
    """

    dim: int
    row: int | None = None
    repeat: int = 1
    lift: int = 0


@dataclasses.dataclass(frozen=True)
class Narrow:
    """Marks an input to narrow."""

    node: fx.Node
    place: Cut


@dataclasses.dataclass(frozen=True)
class CausalRows:
    """Marks a causal mask [length, length] to narrow."""

    length: int
    place: Cut


@dataclasses.dataclass(frozen=True)
class Step:
    """The narrowed form of an operator.

    Attributes:
        target: The operator.
        args: Its arguments, with marks.
        kwargs: Its keyword arguments.
        heavy: Whether it computes or reads so much that narrowing saves time.
        view: Whether it costs almost nothing, so that it may run twice.
        absorbed: Operators before it that it replaces as well.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    heavy: bool = False
    view: bool = False
    absorbed: tuple[fx.Node, ...] = ()


def narrowed_operands(node: fx.Node, place: Cut, operands: Sequence[Any]) -> tuple[Any, ...] | None:
    """The operands of a narrowed operator, with marks on those to narrow in turn.

    Args:
        node: The operator.
        place: The cut of its result.
        operands: Its arguments. Operands that every position reads whole stay as they are.

    Returns:
        The arguments; None if a position of the result reads several positions of an operand.
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
