"""`Division`: one call of a compiled model in parts of its rows, which several threads may run at a time.

What depends on request inputs only is computed once for all parts, where the model has such inputs; see `request_side`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from recfx.driver.bag_rows import cut_bags
from recfx.driver.request_side import RequestSide
from recfx.driver.row_plan import RowPlan
from recfx.errors import InputError
from recfx.ir.bags import IDS_BEHIND_BAGS, Bags
from recfx.ir.batch_axes import Axis
from recfx.ir.leaves import LeafSpec
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH


class Division:
    """One call of a compiled model in parts of its rows.

    Args:
        program: The program.
        plan: The places of the rows, which proves that rows do not depend on one another.
        side: Makes the request side of the program.

    Attributes:
        least_rows: The smallest part that the model takes.
        most_rows: The largest one; None without a limit.
    """

    def __init__(self, program: Program, plan: RowPlan, side: Callable[[], RequestSide | str]) -> None:
        self._signature, self._plan, self._make_side = program.signature, plan, side
        self.least_rows, self.most_rows = program.signature.dims[BATCH]

    @cached_property
    def side(self) -> RequestSide | str:
        """What is computed once for all parts, or the reason why there is no such part of the program. Made at its first use."""
        return self._make_side()

    def check(self, leaves: Sequence[Any]) -> None:
        """Refuses inputs whose bags cannot be divided.

        Args:
            leaves: The flat inputs of the whole call.

        Raises:
            InputError: The bounds of bags are wrong, or ids stand after the last bag.
        """
        for bags in self._plan.bags:
            _require_bags(bags, leaves, self._signature.leaves[bags.bounds])

    def cut(self, leaves: Sequence[Any], start: int, end: int) -> list[Any]:
        """The flat inputs of the rows from `start` to `end`; views of the tensors where rows are not bags."""
        specs = zip(leaves, self._signature.leaves, self._plan.inputs, strict=True)
        found = [_cut(leaf, spec, axis, start, end) for leaf, spec, axis in specs]
        for bags in self._plan.bags:
            for position, leaf in cut_bags(bags, leaves, start, end).items():
                found[position] = leaf
        return found

    def joined(self, parts: Sequence[Sequence[Any]]) -> list[Any]:
        """The flat outputs of the whole call.

        Args:
            parts: Those of the parts, in the order of the rows.
        """
        return [
            several[0] if where is None else torch.cat(several, dim=where.axis)
            for where, several in zip(self._plan.outputs, zip(*parts, strict=True), strict=True)
        ]


def _cut(leaf: Any, spec: LeafSpec, axis: Axis | None, start: int, end: int) -> Any:
    if spec.kind == "size":
        return end - start if spec.value == BATCH else leaf
    if axis is None:
        return leaf
    part = leaf.narrow(axis.dim, start * axis.step, (end - start) * axis.step)
    return part.contiguous() if spec.contiguous else part


def _require_bags(bags: Bags, leaves: Sequence[Any], spec: LeafSpec) -> None:
    """Refuses bounds that do not divide all ids into bags.

    Raises:
        InputError: The bounds are wrong, or ids stand after the last bag.
    """
    if not bags.are_valid(leaves):
        raise InputError(
            "expected bounds of bags that start at 0, do not fall and end within the ids",
            where=f"input {spec}",
            hint=f"check it; it holds the {bags.form.value} of the bags",
        )
    totals = bags.lengths(leaves).reshape(len(bags.streams), -1).sum(1)
    for stream, total in zip(bags.streams, totals, strict=True):
        if (held := bags.count(leaves, stream)) is not None and int(total) < held:
            raise InputError(
                f"{held - int(total)} ids stand after the last bag: {IDS_BEHIND_BAGS}",
                where=f"input {spec}",
                hint=f"pass the first {int(total)} ids only",
            )
