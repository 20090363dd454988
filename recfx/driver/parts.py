"""`Parts`: the parts of a compiled model once it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from recfx.driver.division import Division
from recfx.driver.placed import Placed
from recfx.driver.plans import Plans
from recfx.driver.recipe import Recipe
from recfx.driver.report import Report
from recfx.driver.request_side import request_side
from recfx.driver.row_plan import RowPlan, row_plan
from recfx.driver.weight_watch import WeightWatch
from recfx.errors import InputError
from recfx.ir.jagged_bags import all_bags
from recfx.ir.program import ENDS_AT_LARGEST_BATCH, Program
from recfx.ir.shapes import BATCH
from recfx.ir.synthetic import with_synthetic_example
from recfx.ops.lookup import grouped_lookup
from recfx.ops.to_aten import decompose
from recfx.runtime.entry import entry_function
from recfx.targets import Lowered


class Parts:
    """The parts of a compiled model once it is built.

    Args:
        placed: The program after all passes, on its backends: the plan that the report describes.
        report: The report of the optimization.
        run: Flat inputs -> flat outputs; by default that of the plans.
        recipe: How to make the model again from other weights; None when that is not known.
        one_row: The parts for a batch of one row; None if `placed` also takes one row, or if the model does not.
        plans: All plans of the program; by default only `placed`.

    Attributes:
        watch: Detects changes of the user's weights; None if they are not watched.
        digest: The digest of the saved folder that they were read from; "" for others.
    """

    def __init__(
        self,
        placed: Placed,
        report: Report,
        run: Callable[..., Any] | None = None,
        recipe: Recipe | None = None,
        one_row: Parts | None = None,
        plans: Plans | None = None,
    ) -> None:
        self.recipe = recipe
        self.one_row = one_row
        self.watch: WeightWatch | None = None
        self.digest = ""
        self.placed = placed
        self.report = report
        self.plans = plans or Plans((placed,))
        self.run = run or self.plans.runner()
        self.entry: Callable[..., Any] = entry_function(
            placed.program.signature, self.run, one_row.entry if one_row is not None else None
        )

    @property
    def program(self) -> Program:
        """The program after all passes."""
        return self.placed.program

    @property
    def regions(self) -> tuple[Lowered, ...]:
        """The lowered regions, in order."""
        return self.placed.regions

    @cached_property
    def in_torch(self) -> Program:
        """The program with torch's operators only, made at its first use."""
        return decompose(self.program)

    @cached_property
    def exemplified(self) -> Program:
        """The program with an example: its own, or drawn inputs if it was loaded."""
        if self.program.example:
            return self.program
        return dataclasses.replace(self.program, example=with_synthetic_example(self.in_torch).example)

    @cached_property
    def row_plan(self) -> RowPlan | str:
        """The division of a call into parts of the batch, or the reason why there is no such division."""
        if not all_bags(self.program):
            return row_plan(self.in_torch)
        return row_plan(decompose(self.program, keep=(grouped_lookup,)))

    @cached_property
    def division(self) -> Division | str:
        """A call in parts of its rows, or the reason why calls cannot be divided."""
        plan = self.row_plan
        if isinstance(plan, str):
            return plan
        if ENDS_AT_LARGEST_BATCH in self.program.properties:
            return "the model treats larger batches in another way, or refuses them"
        if BATCH not in self.program.signature.dims:
            return "the model has no batch"
        return Division(self.program, plan, lambda: request_side(self.plans, self.run, self.exemplified.example))

    def with_one_row(self, one_row: Parts) -> Parts:
        """The same parts, with `one_row` as the parts for a batch of one row."""
        report = dataclasses.replace(self.report, one_row=one_row.report)
        parts = Parts(self.placed, report, self.run, self.recipe, one_row, self.plans)
        parts.watch = self.watch
        return parts

    def program_for(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
        """The program that a call with these arguments runs."""
        if self.one_row is not None:
            signature = self.one_row.program.signature
            try:
                signature.check(signature.flatten(args, kwargs))
            except InputError:
                return self.program
            return self.one_row.program
        return self.program
