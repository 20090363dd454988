"""`build` runs the stages of `optimize` in order: capture, passes, lowering, measuring."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recfx.capture import capture
from recfx.capture.batch_limits import LIMITS
from recfx.capture.capture_one_row import capture_one_row
from recfx.capture.model_state import unchanged
from recfx.capture.requests import repeat_example, share_requests
from recfx.driver.blame import Blame
from recfx.driver.competition import place
from recfx.driver.constant_inputs import Held, hold_constants
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
from recfx.errors import CaptureError, MeasureError, PassError, TargetError, VerificationError
from recfx.fewer_collections import fewer_collections
from recfx.ir.graph_checks import quick_argument_checks
from recfx.ir.numeric import Exactness, Run, verify_numeric, weakest
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.pipeline import Announce, Dump, Instrument, Pipeline, PipelineResult
from recfx.progress import stage_line
from recfx.runtime.outputs import own_outputs


def build(
    model: torch.nn.Module,
    options: Options,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    user_model: weakref.ref[torch.nn.Module],
    layouts: Sequence[Layout] = (),
) -> Parts:
    """Makes a compiled model.

    Args:
        model: The model to compile: the user's, or a copy of it with `copy_weights`.
        options: The user's options.
        args: Positional example inputs.
        kwargs: Keyword example inputs.
        user_model: The user's model, for a later refresh.
        layouts: The plans of an earlier build of the same model, and those for a batch of one row.

    Raises:
        RecfxError: See `recfx.optimize`.
    """
    name = type(model).__name__
    with fewer_collections(), quick_argument_checks(), stage_line(f"optimizing {name}") as begin:
        stages = StageTimes(name, begin)
        with stages.run("capture", CaptureError):
            held = hold_constants(model, options.constant_inputs, options.catalogue, args, kwargs)
            captured, one_row = _capture(held, options)
        road = _Road(model, held, options, stages, user_model)
        parts = road.walk(captured, options.debug, *layouts[:1])
        if not (options.copy_weights or parts.report.kept_eager):
            parts.watch = watch_weights(model, captured)
        if one_row is not None:
            folder = options.debug / "one-row" if options.debug else None
            parts = parts.with_one_row(road.walk(one_row, folder, *layouts[1:]))
        return parts


def _capture(held: Held, options: Options) -> tuple[Program, Program | None]:
    """The model as a program, and the program for a batch of one row if that differs."""
    args, kwargs = held.args, held.kwargs
    if options.request_inputs:
        call = repeat_example(held.model, args, kwargs, options.request_inputs)
        args, kwargs = call.args, call.kwargs
    captured = capture(
        held.model,
        args,
        kwargs,
        dynamic_shapes=options.dynamic_shapes,
        max_batch=options.max_batch,
    )
    found = capture_one_row(held.model, args, kwargs, captured)
    if found is not None:
        captured.notices = tuple(n for n in captured.notices if f"{LIMITS} 2 to {options.max_batch}" not in n)
        captured.notices += (found,) if isinstance(found, str) else ()
    one_row = found if isinstance(found, Program) else None
    if options.request_inputs:
        captured = share_requests(
            captured, options.request_inputs, many=options.many_requests, check=options.check_requests
        )
        if options.many_requests and one_row is not None:
            one_row = share_requests(one_row, options.request_inputs, many=True)
    return captured, one_row


@dataclasses.dataclass(frozen=True)
class _Road:
    """The stages after capture, which run for every captured program of a model.

    Attributes:
        model: The model that is compiled.
        held: The model without its constant inputs.
        options: The user's options.
        stages: The time of each stage.
        user_model: See `build`.
    """

    model: torch.nn.Module
    held: Held
    options: Options
    stages: StageTimes
    user_model: weakref.ref[torch.nn.Module]

    def walk(self, captured: Program, debug: Path | None, layout: Layout | None = None) -> Parts:
        """Runs the stages on a captured program, and returns the parts of a compiled model."""
        options, stages = self.options, self.stages
        captured.signature = self.held.mark(captured.signature)
        with stages.run("passes", PassError):
            history = TableHistory(captured, self.held.model)
            result = self._passes(captured, debug, history)
            runs = self._checked(captured, result, debug)
        with stages.run("lowering", TargetError):
            outcome = place(own_outputs(result.program), options, runs, _applied(result), layout)
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
            blame = Blame(captured, self._pipeline, self.held.resources, special=special, lenient=self.options.lenient)
            raise blame.error(error, _applied(result), debug / "reproducer" if debug else None) from error

    def _passes(self, captured: Program, debug: Path | None, history: TableHistory) -> PipelineResult:
        instruments: list[Instrument] = [Announce(self.stages.begin), history, *([Dump(debug)] if debug else [])]
        result = self._pipeline.run(
            captured,
            verify=self.options.level,
            instruments=instruments,
            reproducer=debug / "reproducer" if debug else None,
            resources=self.held.resources,
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
