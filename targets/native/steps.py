"""The parts of a plan under construction: buffers, views of them, and steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Op, Place
from recfx.kernels.slots import ENDINGS, NAMES
from recfx.targets.native.values import Value


@dataclasses.dataclass
class Slot:
    """A buffer of the plan.

    Attributes:
        place: The owner of its memory.
        dtype: The dtype of its elements.
        width: Elements per batch row.
        once: Whether it has one row for the whole batch.
        node: The node whose tensor it is, for inputs and outputs.
        data: The constant's tensor.
        jagged: Whether it is an input read by position, not by batch row.
    """

    place: Place
    dtype: torch.dtype
    width: int
    once: bool
    node: fx.Node | None = None
    data: torch.Tensor | None = None
    jagged: bool = False


@dataclasses.dataclass(frozen=True)
class View:
    """The elements that a step reads or writes: runs from an offset of a slot's row."""

    slot: int
    offset: int
    runs: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of an element-wise program.

    Operands are numbers of inputs (0, 1, ...) or, below zero, of earlier operations (-1 is the first).

    Attributes:
        code: The operation.
        left: The first operand.
        right: The second operand, if the operation has two.
        constant: Its constant, if it has one.
        other: The third operand, which only WHERE has: the value where `left` is false.
    """

    code: Op
    left: int
    right: int = 0
    constant: float = 0.0
    other: int = 0


@dataclasses.dataclass
class Pointwise:
    """A pointwise step in a form that the step that reads it can absorb."""

    inputs: list[Value]
    operations: list[Operation]
    out: Value


@dataclasses.dataclass
class Step:
    """One call of a kernel.

    The keys of `views`, `ints`, `floats` and `pointers` are positions, named by the enumerations of `recfx.kernels.slots` for the kind.
    Positions without a key are absent views, zeros and null pointers.

    Raises:
        ValueError: A key belongs to another kind or another array.
    """

    kind: Kind
    once: bool
    views: dict[int, View]
    out: View
    ints: dict[int, int] = dataclasses.field(default_factory=dict)
    floats: dict[int, float] = dataclasses.field(default_factory=dict)
    pointers: dict[int, int] = dataclasses.field(default_factory=dict)
    features: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reads: fx.Node | None = None  # the node that errors about the step's ids name
    pointwise: Pointwise | None = None  # the operations, for a step that absorbs this one
    absorbed: bool = False  # whether a later step computes the result of this one as well

    def __post_init__(self) -> None:
        arrays: tuple[Iterable[int], ...] = (self.views, self.ints, self.floats, self.pointers)
        for ending, held in zip(ENDINGS, arrays, strict=True):
            for key in held:
                if isinstance(key, IntEnum) and not (
                    type(key) in NAMES[self.kind] and type(key).__name__.endswith(ending)
                ):
                    raise ValueError(f"{key!r} is not an argument of a {self.kind.name.lower()} step")


def records(first: int, names: type[IntEnum], rows: Iterable[Mapping[Any, int]]) -> dict[int, int]:
    """The arguments of an array of records: position -> argument.

    Args:
        first: The position of the array.
        names: Names the fields of a record.
        rows: The records: field -> argument.
    """
    return {first + number * len(names) + field: held for number, row in enumerate(rows) for field, held in row.items()}
