"""The road, walked once: capture, pipeline, lowering, do no harm."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recfx.capture import MAX_BATCH, capture
from recfx.capture.capture_one_row import capture_one_row
from recfx.capture.inputs import split_example
from recfx.capture.model_state import unchanged
from recfx.capture.requests import repeat_example, share_requests
from recfx.compiled import CompiledModel, Parts
from recfx.cost.arithmetic import arithmetic
from recfx.driver.constant_inputs import Held, hold_constants
from recfx.driver.lowering import lower
from recfx.driver.measure import do_no_harm
from recfx.driver.refresh import Recipe, state_shapes
from recfx.driver.report import ARITHMETIC_ROWS, Report
from recfx.driver.stages import Stages
from recfx.driver.weight_watch import copied, watch_weights
from recfx.errors import CaptureError, InputError, MeasureError, PassError, TargetError
from recfx.ir import Level, Program, verify_numeric
from recfx.ir.batch_limits import LIMITS
from recfx.ir.numeric import Exactness, Run, weakest
from recfx.ir.program import Origin
from recfx.passes import PRECISIONS, default_pipeline
from recfx.pipeline import Dump, Instrument, Pass, Pipeline, PipelineResult
from recfx.runtime.outputs import own_outputs
from recfx.targets import BACKENDS, Backend, Lowered, resolve


def optimize(
    model: torch.nn.Module,
    target: str | Sequence[str] = "cpu",
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    pipeline: str | Pipeline | Iterable[Pass | type[Pass] | str] | None = None,
    dynamic_shapes: Any = None,
    max_batch: int = MAX_BATCH,
    request_inputs: str | Sequence[str] = (),
    many_requests: bool = False,
    check_requests: bool = True,
    precision: str = "fp32",
    verify: str = "meta",
    measure: bool = True,
    debug: str | Path | None = None,
    constant_inputs: Mapping[str, Any] | Sequence[str] | None = None,
    tables: bool = False,
    copy_weights: bool = False,
) -> CompiledModel:
    """Makes a trained model faster.

    Args:
        model: The model, in eval mode.
        target: "cpu" lets every CPU backend present compete; a backend's name pins one.
        example_inputs: A tensor, a tuple of positional arguments, or a dict (of keyword arguments when its keys are
            parameters of `forward`, otherwise one argument). Two rows or more is best. Without it, the model is captured at its first call.
        example_kwargs: Keyword arguments to go with a tuple.
        pipeline: Passes to run, as a text, a `Pipeline` or a list; by default all exact and reassociating ones.
        dynamic_shapes: Which dimensions vary, in torch.export's form; by default the batch alone. False fixes all shapes.
        max_batch: The largest batch the compiled model shall take.
        request_inputs: Inputs that hold one row for each request, such as the user and the history, while the others hold one for each
            candidate: names of `forward`'s parameters, or of leaves (`"features['user_id']"`). The compiled model takes them with one row,
            and computes what depends on them alone once.
        many_requests: Take request inputs with a row for each of several requests, and a keyword `request_index`, int64 [batch], that
            says which of them each candidate belongs to.
        check_requests: Compare the rows of a request input that is given with one row for each candidate; False trusts them to be equal.
        precision: "fp32", "bf16" or "int8": what tables and dense weights are stored and multiplied in. Below fp32 the answers change; the
            report says by how much on the example inputs.
        verify: What to check after each pass: "off", "structure", "meta" or "numeric".
        measure: Compare with the user's own model on the clock and keep that one if the compiled one is slower.
        debug: Folder for the program before and after each pass.
        constant_inputs: Inputs that are the same at every call, as {name: tensor}, or as names with the example's values: they become
            part of the model, what depends on them alone is computed once, and calls may leave them out.
        tables: `constant_inputs` is a catalogue instead: its first entry lists all ids an input can have, the others what each id
            determines. Towers over the ids become tables, and calls may leave the others out.
        copy_weights: Compile a copy of the model, made now, so that nothing that is done to the user's weights later reaches the compiled
            model. By default tables are shared with the user's model, and a call after a change of its weights warns once.

    Returns:
        The compiled model; `.report` says what was done.

    Raises:
        CaptureError: The model cannot be captured faithfully; the message names the line and what to change.
        InputError: The example inputs do not fit the model.
        PipelineError: The pipeline cannot run as written.
        PassError: A pass failed; a reproducer folder is named.
        TargetError: The target is unknown or not installed.
    """
    backends = resolve(target)
    requests = (request_inputs,) if isinstance(request_inputs, str) else tuple(request_inputs)
    if many_requests and not requests:
        raise InputError(
            "many_requests needs request_inputs", hint="name the inputs that hold one row for each request"
        )
    plan = _pipeline(pipeline, backends, bool(requests), precision)
    lenient = any(plan == _pipeline(None, backends, bool(requests), each) for each in _precisions(backends))
    if len(backends) > 1:
        backends = _as_exact_as(plan, backends)
    level = _level(verify)
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}", hint="pass the model object itself")
    original = weakref.ref(model)
    if copy_weights:
        model = copied(model)

    def build(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parts:
        stages = Stages(type(model).__name__)
        with stages.run("capture", CaptureError):
            held = hold_constants(model, constant_inputs, tables, args, kwargs)
            source, args, kwargs = held.model, held.args, held.kwargs
            if requests:
                call = repeat_example(source, args, kwargs, requests)
                args, kwargs = call.args, call.kwargs
            captured = capture(
                source, args, kwargs, dynamic_shapes=dynamic_shapes, max_batch=max_batch, specialise=True
            )
            one_row = capture_one_row(source, args, kwargs, captured)
            if one_row is not None:
                captured.notices = tuple(n for n in captured.notices if f"{LIMITS} 2 to {max_batch}" not in n)
                captured.notices += (one_row,) if isinstance(one_row, str) else ()
            if requests:
                captured = share_requests(captured, requests, many=many_requests, check=check_requests)
                if many_requests and isinstance(one_row, Program):
                    one_row = share_requests(one_row, requests, many=True)
        parts = finish(captured, source, held, stages, debug)
        if not (copy_weights or parts.report.kept_eager):
            parts.watch = watch_weights(model, captured)
        if isinstance(one_row, Program):
            folder = Path(debug) / "one-row" if debug else None
            parts = parts.with_one_row(finish(one_row, source, held, stages, folder))
        return parts

    def finish(
        captured: Program, source: torch.nn.Module, held: Held, stages: Stages, debug: str | Path | None
    ) -> Parts:
        captured.signature = held.mark(captured.signature)
        instruments: list[Instrument] = [Dump(Path(debug))] if debug else []
        with stages.run("passes", PassError):
            result = (held.first_passes() + plan).run(
                captured,
                verify=level,
                instruments=instruments,
                reproducer=_reproducer(debug),
                resources=held.resources,
                lenient=lenient,
            )
            result.program.notices += held.notices(result)
            runs = _final_check(captured, result, level, special=held.catalogue is None)
        with stages.run("lowering", TargetError):
            region, found = lower(own_outputs(result.program), backends, runs, _applied(result))
            result.program.notices += found
            report = _report(model, target, region, captured, result)
            if _applied(result) is Exactness.APPROX:
                report = dataclasses.replace(report, approximation=_approximation(captured, region))
            parts = Parts(region.program, [region], report)
        if measure:
            with stages.run("measuring", MeasureError), unchanged(source):
                parts = do_no_harm(parts, source)
        parts.recipe = Recipe(
            plan,
            target if isinstance(target, str) else tuple(target),
            dynamic_shapes,
            max_batch,
            held.values,
            tables,
            {"request_inputs": requests, "many_requests": many_requests, "check_requests": check_requests},
            state_shapes(model),
            copy_weights,
            original,
        )
        parts.report.seconds.update(stages.seconds)
        return parts

    if example_inputs is None and example_kwargs is None:
        return CompiledModel(build=build)
    args, kwargs = split_example(example_inputs, model) if example_inputs is not None else ((), {})
    return CompiledModel(build(args, {**kwargs, **(example_kwargs or {})}))


def _level(verify: str) -> Level:
    try:
        return Level[verify.upper()]
    except KeyError:
        names = ", ".join(repr(level.name.lower()) for level in Level)
        raise InputError(f"verify={verify!r} is no level", hint=f"one of {names}") from None


def _reproducer(debug: str | Path | None) -> Path | None:
    return Path(debug) / "reproducer" if debug else None


def _final_check(captured: Program, result: PipelineResult, level: Level, *, special: bool) -> list[Run]:
    """One numeric comparison of the pipeline as a whole, by the weakest class among the passes that did something."""
    if level is Level.OFF:
        return []
    extremes: list[str] = []
    runs = verify_numeric(captured, result.program, _applied(result), special=special, extremes=extremes)
    if extremes:
        result.program.notices += (
            f"the optimized model differs from yours on rows that hold infinities or numbers of 1e12: {extremes[0]}",
        )
    return runs


def _applied(result: PipelineResult) -> Exactness:
    return weakest(Exactness(record.exactness) for record in result.records if record.fired)


def _pipeline(pipeline: Any, backends: Sequence[Backend], requests: bool, precision: str) -> Pipeline:
    """The user's pipeline, or the default that fits the backends and the precision."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is unknown", hint=f"one of {', '.join(map(repr, PRECISIONS))}")
    if precision != "fp32" and pipeline is not None:
        raise InputError(
            "precision= is a short form for passes, and a pipeline was given as well",
            hint=f"leave precision out and append {PRECISIONS[precision]!r} to the pipeline",
        )
    if precision != "fp32" and not backends[0].dialect:
        raise TargetError(
            f"no backend of this target computes in {precision}",
            hint=BACKENDS["native"].unavailable() or "pass target='cpu' or target='native'",
        )
    if isinstance(pipeline, Pipeline):
        return pipeline
    if pipeline is not None:
        return Pipeline(pipeline)
    return Pipeline(default_pipeline(requests=requests, dialect=backends[0].dialect, precision=precision))


def _precisions(backends: Sequence[Backend]) -> list[str]:
    """The precisions that a target computes in."""
    return list(PRECISIONS) if backends[0].dialect else ["fp32"]


def _as_exact_as(plan: Pipeline, backends: list[Backend]) -> list[Backend]:
    """Of a group of backends, those that are no less exact than the pipeline: who asks for exact passes gets exact arithmetic."""
    allowed = weakest(item.spec.exactness for item in plan.passes)
    return [b for b in backends if weakest([allowed, b.exactness]) is allowed]


def _approximation(captured: Program, region: Lowered) -> tuple[float, float]:
    """The largest difference of an output on the example inputs, as it is and over the output's standard deviation."""
    worst, relative = 0.0, 0.0
    found = region.run(*region.program.example)
    for want, got in zip(captured.run(captured.example), found, strict=True):
        if isinstance(want, torch.Tensor) and want.is_floating_point() and want.numel():
            difference = float((got.double() - want.double()).abs().max())
            spread = float(want.double().std(correction=0))
            worst = max(worst, difference)
            relative = max(relative, difference / spread if spread else float(difference > 0))
    return worst, relative


def _report(
    model: torch.nn.Module, target: str | Sequence[str], region: Lowered, captured: Program, result: PipelineResult
) -> Report:
    def operators(program: Program) -> int:
        return sum(node.op == "call_function" for node in program.graph.nodes)

    return Report(
        model=type(model).__name__,
        target=target if isinstance(target, str) else ", ".join(target),
        backend=(region.backend,),
        notices=result.program.notices,
        passes=result.records,
        state_bytes=(captured.state_bytes(), result.program.state_bytes()),
        operators=(operators(captured), operators(result.program)),
        seconds={},
        arithmetic=_arithmetic(captured, result.program) if Origin.REQUEST in captured.origins.values() else None,
        left_to_torch=region.left,
        lowered_operators=region.operators,
    )


def _arithmetic(before: Program, after: Program) -> tuple[int, int]:
    first, last = (arithmetic(program, ARITHMETIC_ROWS).multiply_adds for program in (before, after))
    return first, last
