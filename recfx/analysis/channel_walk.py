"""The state of one walk over a graph that finds coupled channels, which the rules of operators read and extend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, cast

import torch
from torch import fx

from recfx.analysis.axis_rules import expression
from recfx.analysis.batch_axis import held_by
from recfx.analysis.channel_axes import Axis, fixed, labelled, tie, vectors
from recfx.analysis.channel_labels import Labels, Vector

Axes = list[Axis]
#: The axes of a node's result, or of each of its results; None for a result without tensors.
Result = Axes | list[Axes] | None
Rule = Callable[["Walk", fx.Node], "Result"]


class Read(Enum):
    """How an operator combines the elements along an axis that its result does not have, or that it normalises."""

    SUM = "a sum, to which an element that is zero adds nothing"
    COUNT = "a value that depends on the number of elements"


@dataclasses.dataclass(frozen=True)
class Reduction:
    """An operator that combines the elements of an operand along an axis.

    Attributes:
        node: The operator.
        operand: The operand.
        axis: The axis of the operand, from 0.
        kind: How they are combined.
    """

    node: fx.Node
    operand: fx.Node
    axis: int
    kind: Read


@dataclasses.dataclass(frozen=True)
class Pinned:
    """An operator because of which channels stay.

    Attributes:
        node: The operator.
        reason: Why they stay.
        channels: Labels of the channels.
    """

    node: fx.Node
    reason: str
    channels: tuple[int, ...]


class Walk:
    """Labels, axes and reductions, collected in graph order.

    Attributes:
        labels: The labels of elements.
        found: Node -> the axes of its result or results.
        state: Id of a parameter or buffer -> its axes, which all its names share.
        reductions: The operators that combine elements of an axis.
        stacked: Labels of the axes along which values are stacked.
        misses: The operators that make elements stay.
    """

    def __init__(self) -> None:
        self.labels = Labels()
        self.found: dict[fx.Node, Result] = {}
        self.state: dict[int, Axes] = {}
        self.reductions: list[Reduction] = []
        self.stacked: list[Vector] = []
        self.misses: list[Pinned] = []

    def axes(self, node: Any) -> Axes | None:
        """The axes of an argument that is one tensor; None for anything else."""
        if not isinstance(node, fx.Node) or not isinstance(held_by(node), torch.Tensor):
            return None
        found: Axes | None = cast(Any, self.found.get(node))
        return found

    def axes_of(self, node: Any) -> Axes:
        """The axes of an argument that is known to be one tensor."""
        found = self.axes(node)
        assert found is not None, node
        return found

    def fresh(self, size: Any) -> Axis:
        """An axis whose places are independent channels."""
        return labelled(self.labels, size)

    def tie(self, node: fx.Node, first: Axis, second: Axis) -> None:
        """Ties two axes that an operator reads place by place."""
        if not tie(self.labels, first, second):
            self.pin(node, [first, second], "it reads axes that are divided in different ways")

    def pin(self, node: fx.Node, axes: Sequence[Axis], reason: str) -> None:
        """Makes all places of some axes stay, because of an operator."""
        self.pin_labels(node, vectors(axes), reason)

    def pin_labels(self, node: fx.Node, parts: Sequence[Vector], reason: str) -> None:
        """Makes some places stay, because of an operator."""
        changed = [channel for part in parts for channel in self.labels.pin(part)]
        if changed:
            self.misses.append(Pinned(node, reason, tuple(changed)))

    def reduce(self, node: fx.Node, operand: Any, axis: int, kind: Read) -> None:
        """Records that an operator combines the elements of an operand along an axis."""
        if vectors([self.axes_of(operand)[axis]]):
            self.reductions.append(Reduction(node, operand, axis, kind))


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """An argument by position or, failing that, by keyword."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def sizes_of(node: fx.Node) -> list[Any]:
    """The sizes of a node's result, as expressions."""
    return [expression(size) for size in held_by(node).shape]


def fixed_result(node: fx.Node) -> Result:
    """The axes of a result whose places all stay; None for a result without tensors."""
    held = held_by(node)
    if isinstance(held, torch.Tensor):
        return [fixed(size) for size in held.shape]
    if isinstance(held, tuple | list):
        return [[fixed(s) for s in part.shape] if isinstance(part, torch.Tensor) else [] for part in held]
    return None


def dims_of(given: Any, rank: int) -> set[int]:
    """Dimensions as a set, counted from the front; all if none is given."""
    if given is None or (isinstance(given, list | tuple) and not given):
        return set(range(rank))
    return {d % rank for d in ([given] if isinstance(given, int) else given)} if rank else set()
