"""`Road`: a captured model, and the stages after capture: passes, lowering, measuring. It can be walked again with other passes."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recfx.capture.model_state import unchanged
from recfx.driver.blame import Blame
from recfx.driver.competition import place
from recfx.driver.constant_inputs import Held
from recfx.driver.idle_passes import idle_passes
from recfx.driver.measure import do_no_harm, with_measured_regions
from recfx.driver.options import Options
from recfx.driver.parts import Parts
from recfx.driver.plans import Layout
from recfx.driver.recipe import Recipe, state_shapes
from recfx.driver.report import approximation, report_of
from recfx.driver.stage_times import StageTimes
from recfx.driver.table_history import TableHistory
from recfx.driver.torch_operators import with_shares
from recfx.driver.weight_watch import watch_weights
from recfx.errors import MeasureError, PassError, TargetError, VerificationError
from recfx.ir.numeric import Exactness, Run, verify_numeric, weakest
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.pipeline import Announce, Dump, Instrument, Pipeline, PipelineResult
from recfx.runtime.outputs import own_outputs


@dataclasses.dataclass(frozen=True)
class Road:
    """A captured model and the stages after capture, which run for each of its programs.

    Attributes:
        model: The model that is compiled.
        held: The model without its constant inputs.
        options: The user's options.
        stages: The time of each stage.
        user_model: See `build`.
        captured: The model as a program.
        one_row: The program for a batch of one row, if that differs.
    """

    model: torch.nn.Module
    held: Held
    options: Options
    stages: StageTimes
    user_model: weakref.ref[torch.nn.Module]
    captured: Program
    one_row: Program | None

    @property
    def resources(self) -> dict[str, Any]:
        """The data that passes get in addition to the program."""
        return {**self.held.resources, **self.options.resources}

    def with_options(self, **changes: Any) -> Road:
        """The same captured model with other options."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **changes))

    def parts(self, layouts: Sequence[Layout] = ()) -> Parts:
        """Runs the stages on all programs of the model, and returns the parts of a compiled model.

        Args:
            layouts: See `build`.
        """
        debug = self.options.debug
        parts = self._walk(self.captured, debug, *layouts[:1])
        if not (self.options.copy_weights or parts.report.kept_eager):
            parts.watch = watch_weights(self.model, self.captured)
        if self.one_row is not None:
            folder = debug / "one-row" if debug else None
            parts = parts.with_one_row(self._walk(self.one_row, folder, *layouts[1:]))
        return parts

    def _walk(self, captured: Program, debug: Path | None, layout: Layout | None = None) -> Parts:
        """Runs the stages on one captured program."""
        options, stages = self.options, self.stages
        with stages.run("passes", PassError):
            history = TableHistory(captured, self.held.model)
            result = self._passes(captured, debug, history)
            runs = self._checked(captured, result, debug)
        with stages.run("lowering", TargetError):
            before = sum(stages.seconds.values())
            outcome = place(own_outputs(result.program), options, runs, _applied(result), layout, spent=before)
            placed = outcome.plans.main
            idle = () if options.lenient else idle_passes(result)
            result.program.notices += (*outcome.notices, *options.notices(), *idle)
            report = report_of(type(self.model).__name__, options.target, placed, captured, result)
            report = dataclasses.replace(report, plans=outcome.times, regions=outcome.regions)
            report = dataclasses.replace(report, tables=history.records(result.program))
            if _applied(result) is Exactness.APPROX:
                report = dataclasses.replace(report, approximation=approximation(captured, placed))
            parts = Parts(placed, report, plans=outcome.plans)
        if options.measure:
            with stages.run("measuring", MeasureError), unchanged(self.held.model):
                parts = do_no_harm(parts, self.held.model)
                if parts.report.left_to_torch:
                    shares = with_shares(placed, parts.program.example)
                    parts.report = dataclasses.replace(parts.report, torch_operators=shares)
                parts.report = with_measured_regions(parts)
        parts.recipe = Recipe(options, self.held.values, state_shapes(self.model), self.user_model)
        parts.report.seconds.update(stages.seconds)
        return parts

    @property
    def _pipeline(self) -> Pipeline:
        """All passes that run: those that constant inputs need, and the user's."""
        return self.held.first_passes() + self.options.pipeline

    def _checked(self, captured: Program, result: PipelineResult, debug: Path | None) -> list[Run]:
        """The final comparison; where it fails, the error names the pass and the rewrite at fault.

        Raises:
            PassError: The results differ.
        """
        special = self.held.catalogue is None
        try:
            return _final_check(captured, result, self.options.level, special=special)
        except VerificationError as error:
            blame = Blame(captured, self._pipeline, self.resources, special=special, lenient=self.options.lenient)
            raise blame.error(error, _applied(result), debug / "reproducer" if debug else None) from error

    def _passes(self, captured: Program, debug: Path | None, history: TableHistory) -> PipelineResult:
        instruments: list[Instrument] = [Announce(self.stages.begin), history, *([Dump(debug)] if debug else [])]
        result = self._pipeline.run(
            captured,
            verify=self.options.level,
            instruments=instruments,
            reproducer=debug / "reproducer" if debug else None,
            resources=self.resources,
            lenient=self.options.lenient,
        )
        result.program.notices += self.held.notices(result)
        return result


def _final_check(captured: Program, result: PipelineResult, level: Level, *, special: bool) -> list[Run]:
    """Compares the outputs before and after the whole pipeline, by the weakest exactness class of the passes that fired."""
    if level is Level.OFF:
        return []
    extremes: list[str] = []
    runs = verify_numeric(captured, result.program, _applied(result), special=special, extremes=extremes)
    if extremes:
        result.program.notices += (
            f"the optimized model differs from yours on rows with infinities or with numbers as large as 1e12: {extremes[0]}",
        )
    return runs


def _applied(result: PipelineResult) -> Exactness:
    """The weakest exactness class of the passes that fired."""
    return weakest(Exactness(record.exactness) for record in result.records if record.fired)
