"""`Parts`: what a compiled model consists of once it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recfx.driver.recipe import Recipe
from recfx.driver.report import Report
from recfx.driver.weight_watch import WeightWatch
from recfx.errors import InputError
from recfx.ir.program import Program
from recfx.runtime.entry import entry_function
from recfx.targets import Lowered


class Parts:
    """What a compiled model consists of once it is built.

    Args:
        program: The program after all passes.
        regions: The lowered regions, in order.
        report: What was done.
        run: Flat inputs -> flat outputs; by default the only region's runner.
        recipe: How to make it again from other weights; None when that is not known.
        one_row: What runs instead when the batch has one row; None when the program takes one row itself, or none is taken.

    Attributes:
        watch: Notices changes of the user's weights; None where nothing is shared with a model that still exists.
    """

    def __init__(
        self,
        program: Program,
        regions: Sequence[Lowered],
        report: Report,
        run: Callable[..., Any] | None = None,
        recipe: Recipe | None = None,
        one_row: Parts | None = None,
    ) -> None:
        self.recipe = recipe
        self.one_row = one_row
        self.watch: WeightWatch | None = None
        self.program = program
        self.regions = tuple(regions)
        self.report = report
        self.run = run or regions[0].run
        self.entry: Callable[..., Any] = entry_function(
            program.signature, self.run, one_row.entry if one_row is not None else None
        )

    def with_one_row(self, one_row: Parts) -> Parts:
        """The same parts with others for a batch of one row."""
        report = dataclasses.replace(self.report, one_row=one_row.report)
        parts = Parts(self.program, self.regions, report, self.run, self.recipe, one_row)
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
