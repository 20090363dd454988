"""Sums of a product and another tensor: the product adds the tensor as it writes its result, which saves a pass over both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Place
from recfx.kernels.slots import GemmInt, GemmView
from recfx.targets.native.builder import PlanBuilder, rows_of, view
from recfx.targets.native.rules.pointwise import read_once
from recfx.targets.native.rules.registry import RULES, rule
from recfx.targets.native.steps import Step, View
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten
#: The rule for other sums.
_plain = RULES[_aten.add.Tensor]


@rule(_aten.add.Tensor, replaces=True)
def _sum(builder: PlanBuilder, node: fx.Node) -> None:
    operands: list[Any] = list(node.args)
    tensors = len(operands) == 2 and all(isinstance(operand, fx.Node) for operand in operands)
    if tensors and node.kwargs.get("alpha", 1) == 1 and node.meta["val"].dtype is torch.float32:
        for product, other in (operands[::-1], operands):
            if product is not other and _added(builder, node, product, other):
                return
    _plain(builder, node)


def _added(builder: PlanBuilder, node: fx.Node, product: fx.Node, other: fx.Node) -> bool:
    """Lets the step that computes `product` add `other`; returns False where it cannot."""
    values = [builder.value(operand, mixed=True) for operand in (product, other)]
    made = _whole_product(builder, product, values[0])
    if made is None or not _alike(builder, node, values):
        return False
    try:
        summand = rows_of(values[1])
    except Unsupported:
        return False
    out = builder.result(node, anywhere=True, like=values)
    builder.absorb(made)
    step = dataclasses.replace(
        made, views={**made.views, GemmView.SUMMAND: summand}, out=view(out, rows_of(out).runs), absorbed=False
    )
    builder.add_step(step)
    builder.values[node] = out
    return True


def _whole_product(builder: PlanBuilder, node: fx.Node, value: Value) -> Step | None:
    """The product whose result is exactly this value, which nothing else reads; None without one, and if it adds or multiplies already."""
    made = builder.only_writer(value.slot)
    if made is None or made.kind is not Kind.GEMM or builder.slots[value.slot].place is not Place.TEMP:
        return None
    if GemmView.SUMMAND in made.views or GemmView.FACTOR in made.views or made.ints.get(GemmInt.SUMS_FIRST):
        return None
    return made if read_once(builder, node) and _place(value) == made.out else None


def _place(value: Value) -> View | None:
    try:
        return rows_of(value)
    except Unsupported:
        return None


def _alike(builder: PlanBuilder, node: fx.Node, values: Sequence[Value]) -> bool:
    """Whether all are float32 tensors of the same sizes, with the batch in the same place, and no batch lies inside a dimension."""
    shape = [(d.size, d.batch) for d in builder.shape(node)]
    return all(
        not value.mixed and builder.dtype(value) is torch.float32 and [(d.size, d.batch) for d in value.dims] == shape
        for value in values
    )
