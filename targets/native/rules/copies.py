"""Steps that copy a value to another place of a plan."""

from __future__ import annotations

import torch

from recfx.kernels.codes import Kind
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.pointwise import COPIED, emit_pointwise
from recfx.targets.native.values import Unsupported, Value, merge


def copy(builder: PlanBuilder, value: Value, to: Value) -> None:
    """Copies a value to another place of the same shape.

    Raises:
        Unsupported: No step copies its dtype.
    """
    if builder.dtype(value) not in COPIED or builder.slots[to.slot].dtype is not builder.dtype(value):
        raise Unsupported(f"it copies {builder.dtype(value)}")
    kind = Kind.POINTWISE if builder.dtype(value) is torch.float32 else Kind.INTEGER
    emit_pointwise(builder, [value], to, [], [], kind)


def compact(builder: PlanBuilder, value: Value) -> Value:
    """The value, contiguous in the order of its dimensions; copied if necessary."""
    if [stride for _, stride in merge(value.dims)] in ([], [1]):
        return value
    fresh = builder.temp(value.dims, builder.dtype(value))
    copy(builder, value, fresh)
    return fresh
