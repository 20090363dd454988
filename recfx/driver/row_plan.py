"""The division of a call into parts of the batch, if rows do not depend on one another: the places of rows in inputs and outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from recfx.analysis.batch_axis import Rows
from recfx.analysis.origins import origins
from recfx.driver.bag_rows import BagRows, bag_leaves
from recfx.ir.bags import Bags
from recfx.ir.batch_axes import Axis, batch_axis
from recfx.ir.jagged_bags import all_bags
from recfx.ir.leaves import LeafSpec
from recfx.ir.program import Origin, Program
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names


@dataclasses.dataclass(frozen=True)
class RowPlan:
    """How a call is divided among the rows of the batch.

    Attributes:
        inputs: The axis of the rows of each leaf; None for a leaf that every part takes whole, and for leaves of bags.
        outputs: The axis of the rows of each output; None for an output that is the same in every part.
        bags: The bags among the leaves, which are divided as a whole.
    """

    inputs: tuple[Axis | None, ...]
    outputs: tuple[Rows | None, ...]
    bags: tuple[Bags, ...] = ()


def row_plan(program: Program) -> RowPlan | str:
    """How calls of a program can be divided, or the reason why they cannot.

    Args:
        program: A program of torch's operators, and of grouped lookups if it has bags.
    """
    inputs: list[Axis | None] = []
    held = bag_leaves(program)
    for position, leaf in enumerate(program.signature.leaves):
        if position in held:
            inputs.append(None)
            continue
        axis = batch_axis(leaf)
        if reason := _indivisible(leaf, axis):
            return f"the input {leaf} {reason}"
        inputs.append(axis)
    marked = {leaf.name: program.origins.get(leaf.name, Origin.REQUEST) for leaf in program.signature.leaves}
    marked = {name: o if o in (Origin.INDEX, Origin.CONSTANT) else Origin.REQUEST for name, o in marked.items()}
    marked |= {program.signature.leaves[position].name: Origin.CANDIDATE for position in held}
    found = origins(dataclasses.replace(program, origins=marked), BagRows(program).judge if held else None)
    outputs: list[Rows | None] = []
    returned: Any = next(iter(reversed(program.graph.nodes))).args[0]
    for value in returned:
        if not isinstance(value, torch.fx.Node):
            outputs.append(None)
            continue
        origin = found[value]
        if origin.origin is Origin.CANDIDATE:
            reasons = [o.blocked for o in found.of.values() if o.blocked]
            other = "bags are read in another way than by a lookup" if held else "an operator draws random numbers"
            return f"rows of an output may depend on one another: {(reasons or [other])[0]}"
        if not isinstance(value.meta.get("val"), torch.Tensor):
            return "an output is a size"
        outputs.append(origin.rows)
    return RowPlan(tuple(inputs), tuple(outputs), all_bags(program))


def _indivisible(leaf: LeafSpec, axis: Axis | None) -> str | None:
    """Why a leaf cannot be divided into rows or taken whole; None when it can."""
    varying = [size for size in leaf.shape if isinstance(size, str)]
    if any(BATCH in dimension_names(size) for size in varying) and axis is None:
        return "has a size that is more than a multiple of the batch"
    if sum(BATCH in dimension_names(size) for size in varying) > 1:
        return "has the batch along two dimensions"
    if axis is None and varying:
        return "holds bags, or another number of entries than rows"
    return None
