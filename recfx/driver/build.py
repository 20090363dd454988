"""`build` runs the stages of `optimize` in order: capture, passes, lowering, measuring."""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from recfx.capture import capture
from recfx.capture.batch_limits import LIMITS
from recfx.capture.capture_one_row import capture_one_row
from recfx.capture.requests import repeat_example, share_requests
from recfx.driver.constant_inputs import Held, hold_constants
from recfx.driver.options import Options
from recfx.driver.parts import Parts
from recfx.driver.plans import Layout
from recfx.driver.road import Road
from recfx.driver.stage_times import StageTimes
from recfx.errors import CaptureError
from recfx.fewer_collections import fewer_collections
from recfx.ir.graph_checks import quick_argument_checks
from recfx.ir.program import Program
from recfx.progress import stage_line

_TRACER = "torch.export._trace"


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
    with stages_of(type(model).__name__) as stages:
        return open_road(model, options, args, kwargs, user_model, stages).parts(layouts)


@contextmanager
def stages_of(name: str, *, shown: bool = True) -> Iterator[StageTimes]:
    """A context in which the stages of `build` run, and in which a line on the terminal says which one.

    Args:
        name: The name of the model.
        shown: Whether to show the line.
    """
    with ExitStack() as stack:
        stack.enter_context(fewer_collections())
        stack.enter_context(quick_argument_checks())
        begin = stack.enter_context(stage_line(f"optimizing {name}")) if shown else _silent
        yield StageTimes(name, begin)


def _silent(stage: str) -> None:
    """Shows nothing."""


def open_road(
    model: torch.nn.Module,
    options: Options,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    user_model: weakref.ref[torch.nn.Module],
    stages: StageTimes,
) -> Road:
    """Captures a model. For the arguments see `build`; `stages` is from `stages_of`."""
    with stages.run("capture", CaptureError):
        _import_tracer()
        held = hold_constants(model, options.constant_inputs, options.catalogue, args, kwargs)
        captured, one_row = _capture(held, options)
        for program in (captured, one_row):
            if program is not None:
                program.signature = held.mark(program.signature)
    return Road(model, held, options, stages, user_model, captured, one_row)


def _import_tracer() -> None:
    """Imports the modules that torch imports at the first export, which are thousands, in a context for imports."""
    if _TRACER not in sys.modules:
        with fewer_collections(imports=True):
            importlib.import_module(_TRACER)


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
