"""Masks: comparisons with numbers, negation, and choices by a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules import rule
from recfx.targets.native.rules_pointwise import MASKED_FILL, NOT, WHERE, Operation, lower_pointwise, require_floating
from recfx.targets.native.values import Unsupported

_aten = torch.ops.aten

_COMPARISONS = {"eq": 20, "ne": 21, "gt": 22, "ge": 23, "lt": 24, "le": 25}


def _comparison(code: int) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        constant: Any = node.args[1]
        # As float32, an integer beyond 2^24 is rounded, but never to a number below 2^24.
        if not isinstance(constant, int | float) or not abs(constant) < 2**24:
            raise Unsupported("it compares with a tensor or a large number")
        if float(torch.tensor(float(constant), dtype=torch.float32)) != float(constant):
            raise Unsupported("its constant is no float32")
        lower_pointwise(builder, node, [node.args[0]], [Operation(code, 0, 0, float(constant))])

    return lower


for _name, _code in _COMPARISONS.items():
    rule(getattr(_aten, _name).Scalar)(_comparison(_code))


@rule(_aten.logical_not.default, _aten.bitwise_not.default)
def _not(builder: PlanBuilder, node: fx.Node) -> None:
    if node.meta["val"].dtype is not torch.bool or builder.dtype(builder.value(node.args[0])) is not torch.bool:
        raise Unsupported("it turns bits of integers over")
    lower_pointwise(builder, node, [node.args[0]], [Operation(NOT, 0)])


@rule(_aten.masked_fill.Scalar)
def _masked_fill(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    x, mask, constant = node.args
    lower_pointwise(builder, node, [mask, x], [Operation(MASKED_FILL, 0, 1, float(constant))])  # type: ignore[arg-type]


@rule(_aten.where.self)
def _where(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    lower_pointwise(builder, node, list(node.args), [Operation(WHERE, 0, 1, 2.0)])
