"""`optimize`: checks its arguments and builds a compiled model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recfx.capture import MAX_BATCH
from recfx.capture.inputs import split_example
from recfx.compiled import CompiledModel
from recfx.driver.build import build
from recfx.driver.options import Options, PipelineLike, as_listed, choose_pipeline, is_default, verification_level
from recfx.driver.parts import Parts
from recfx.driver.weight_watch import copied
from recfx.errors import InputError
from recfx.fewer_collections import fewer_collections
from recfx.passes import Passes

if TYPE_CHECKING:  # `recfx.budget` imports the data sets and metrics, which most calls do not need
    from recfx.budget.controller import Request
    from recfx.budget.settings import Budget


@fewer_collections()
def optimize(
    model: torch.nn.Module,
    target: str | Sequence[str] = "cpu",
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    pipeline: PipelineLike = None,
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
    catalogue: bool = False,
    copy_weights: bool = False,
    extra_passes: Mapping[str, Passes] | Passes = (),
    cast_inputs: bool = False,
    tables: bool | None = None,
    placement: str | Mapping[str, str] | None = None,
    calibration: Any = None,
    evaluate: Any = None,
    budget: Budget | None = None,
) -> CompiledModel:
    """Makes a trained model faster.

    Args:
        model: The model, in eval mode.
        target: "cpu" for all CPU backends that can run here, the name of one backend, or a list of names in the order in which they are
            tried.
        example_inputs: A tensor, a tuple of positional arguments, or a dict (of keyword arguments when its keys are
            parameters of `forward`, otherwise one argument). It should have two rows or more. Without it, the model is captured at its
            first call.
        example_kwargs: Keyword arguments to go with a tuple.
        pipeline: Passes to run, as a string, a `Pipeline` or a list; by default all exact and reassociating passes.
        dynamic_shapes: The dimensions that vary, in torch.export's form; by default only the batch. False fixes all shapes.
        max_batch: The largest batch that the compiled model takes, in rows.
        request_inputs: Inputs with one row per request, such as the user and the history; all other inputs have one row per candidate.
            Names of `forward`'s parameters, or of leaves (`"features['user_id']"`). The compiled model takes these inputs with one row,
            and runs the operators that depend only on them once per call.
        many_requests: Take request inputs with a row for each of several requests, and a keyword `request_index`, int64 [batch]: the
            request of each candidate.
        check_requests: If a call gives a request input one row per candidate, check that these rows are equal; False skips the check.
        precision: "fp32", "bf16" or "int8": the number format in which tables and dense weights are stored and multiplied. Below fp32 the
            outputs change; the report says by how much on the example inputs. With `calibration`, int8 layers get factors for their
            inputs and corrected biases.
        verify: The check after each pass: "off", "structure", "meta" or "numeric".
        measure: Time the compiled model against the user's own model, and run the user's own model if the compiled one is slower.
        debug: Folder for the program before and after each pass.
        constant_inputs: Inputs that are the same in every call, as {name: tensor}, or as names whose values the example gives. They
            become part of the model: operators that depend only on them run once, now, and calls may leave them out.
        catalogue: Whether `constant_inputs` is a catalogue: its first entry lists all ids that an input can have, and its other entries
            are inputs that the id determines. Towers over the ids become tables, and calls may leave the other entries out.
        copy_weights: Compile a copy of the model, so that later changes of the user's weights do not reach the compiled model. By default
            tables are shared with the user's model, and the first call after a change of its weights warns.
        extra_passes: Your own passes in the default pipeline: {"after:fold": ["my-pass"], "before:hoist": MyPass}, or a list of passes,
            which run after the first stage. `recfx.passes.STAGES` lists the stages and the reasons for their order.
        cast_inputs: Convert floating-point inputs of another width at calls, such as NumPy's float64, and integers given for
            floating-point inputs. Lists, NumPy arrays of the right dtype and integers of another width are always converted.
        tables: The former name of `catalogue`; deprecated.
        placement: How the backends of the target are chosen for the parts of the model. "measure" times the plans that may be the
            fastest, "model" takes the plan with the lowest predicted time, and a dict of module paths, operators or regions gives these
            to backends: {"text_tower": "openvino"}. By default "measure", or "model" with `measure=False`. A list of targets without
            `placement` is the order in which backends are tried.
        calibration: Some hundred rows as batches like `example_inputs`, with or without labels as their last element, such as a
            DataLoader. `prune-channels` ranks channels by some thousand of them, and `share-cold-rows` counts the ids of all of them; by
            default a budget takes rows from the metric.
        evaluate: How accurate a model is: `recfx.AUC(valid)`, another metric of rows, or a function from a model to a number, higher is
            better. A function gets your model and compiled ones, which it may only call.
        budget: How much of `evaluate` may be lost: `recfx.Budget(max_drop=1e-3)`. Tables and layers are stored in fewer bits and channels
            are removed as far as the budget allows; `.report.budget` is the certificate, and says whether the budget is met.

    Returns:
        The compiled model; `.report` lists the rewrites.

    Raises:
        CaptureError: The model cannot be captured faithfully; the message names the line and what to change.
        InputError: The example inputs do not fit the model, or `evaluate` cannot be trusted.
        DataError: The evaluation data cannot be used.
        PipelineError: The pipeline cannot run as written.
        PassError: A pass failed; the message names a reproducer folder.
        TargetError: The target is unknown, not installed, or cannot run the model.
        VerificationError: The optimized model does not compute the same as the captured one.
        MeasureError: The measurement failed.
    """
    if tables is not None:
        warnings.warn("optimize(tables=) is now called catalogue=", DeprecationWarning, stacklevel=3)
        catalogue = tables
    requests = (request_inputs,) if isinstance(request_inputs, str) else tuple(request_inputs)
    extra = as_listed(() if extra_passes is None else extra_passes)
    resources = _resources(calibration)
    request = _requested(evaluate, budget, resources, extra, is_default=pipeline is None and precision == "fp32")
    plan = choose_pipeline(pipeline, target, bool(requests), precision, extra, calibrated="calibration" in resources)
    options = Options(
        target if isinstance(target, str) else tuple(target),
        plan,
        lenient=is_default(plan, target, bool(requests)),
        dynamic_shapes=dynamic_shapes,
        max_batch=max_batch,
        request_inputs=requests,
        many_requests=many_requests,
        check_requests=check_requests,
        level=verification_level(verify),
        measure=measure,
        debug=Path(debug) if debug else None,
        constant_inputs=constant_inputs,
        catalogue=catalogue,
        copy_weights=copy_weights,
        placement=dict(placement) if isinstance(placement, Mapping) else placement,
        resources=resources,
    )
    if isinstance(model, CompiledModel):
        raise InputError(
            "the model is compiled already",
            hint="optimize your own model again; a larger module that holds a compiled model can be optimized",
        )
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}", hint="pass the model object itself")
    user_model = weakref.ref(model)
    source = copied(model) if copy_weights else model

    def make(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parts:
        if request is not None:
            from recfx.budget.controller import within_budget

            return within_budget(source, options, args, kwargs, user_model, request)
        return build(source, options, args, kwargs, user_model)

    if example_inputs is None and example_kwargs is None:
        if request is not None:
            raise InputError(
                "budget= needs example_inputs", hint="pass a batch: compositions are measured before the first call"
            )
        return CompiledModel(build=make, cast_inputs=cast_inputs)
    args, kwargs = split_example(example_inputs, source) if example_inputs is not None else ((), {})
    return CompiledModel(make(args, {**kwargs, **(example_kwargs or {})}), cast_inputs=cast_inputs)


def _resources(calibration: Any) -> dict[str, Any]:
    """The resources of passes from the user's calibration data."""
    if calibration is None:
        return {}
    from recfx.budget.calibration import resources_of

    return resources_of(calibration)


def _requested(
    evaluate: Any,
    budget: Budget | None,
    resources: Mapping[str, Any],
    extra: Mapping[str, Passes] | Passes,
    *,
    is_default: bool,
) -> Request | None:
    """What the user asks for within a budget; None without one."""
    if evaluate is None and budget is None:
        return None
    from recfx.budget.controller import requested

    return requested(evaluate, budget, resources.get("calibration"), extra, is_default=is_default)
