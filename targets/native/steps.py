"""What a plan is made of while it is built: buffers, views of them, and steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Place
from recfx.targets.native.values import Value


@dataclasses.dataclass
class Slot:
    """A buffer of the plan.

    Attributes:
        place: Whose memory it is.
        dtype: Of its elements.
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
    """What a step reads or writes: runs of elements from an offset of a slot's row."""

    slot: int
    offset: int
    runs: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation: operands are inputs (0, 1, ...) or, negative, earlier operations (-1 is the first)."""

    code: int
    left: int
    right: int = 0
    constant: float = 0.0


@dataclasses.dataclass
class Pointwise:
    """A pointwise step before it is written down, so that its reader can absorb it."""

    inputs: list[Value]
    operations: list[Operation]
    out: Value


@dataclasses.dataclass
class Step:
    """One call of a kernel; the meaning of numbers and pointers is the kernel's."""

    kind: Kind
    once: bool
    views: dict[int, View]
    out: View
    ints: list[int] = dataclasses.field(default_factory=list)
    floats: list[float] = dataclasses.field(default_factory=list)
    pointers: dict[int, int] = dataclasses.field(default_factory=dict)
    features: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reads: fx.Node | None = None  # whose index a pick reads, for its error
    pointwise: Pointwise | None = None  # what a reader can absorb
