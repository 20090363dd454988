"""`pareto`: checks its arguments and makes compressed forms of a model, by accuracy, time and bytes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from recfx.budget.calibration import resources_of
from recfx.budget.compositions import Compositions
from recfx.budget.controller import choice_rows
from recfx.budget.explore import explored, require_folder
from recfx.budget.front import Front
from recfx.budget.judge import Judge
from recfx.budget.measures import measure_of
from recfx.budget.settings import Budget
from recfx.budget.untouched import require_finite
from recfx.capture import MAX_BATCH
from recfx.capture.inputs import split_example
from recfx.compiled import CompiledModel
from recfx.driver.build import open_road, stages_of
from recfx.driver.options import Options, as_listed, choose_pipeline
from recfx.errors import InputError
from recfx.passes import Passes

#: What forms save, in turns.
_PREFERENCES = ("bytes", "time")


def pareto(
    model: torch.nn.Module,
    target: str | Sequence[str] = "cpu",
    *,
    example_inputs: Any,
    evaluate: Any,
    folder: str | PathLike[str],
    calibration: Any = None,
    max_drop: float = 1e-2,
    confidence: float = 0.95,
    points: int = 9,
    max_batch: int = MAX_BATCH,
    extra_passes: Mapping[str, Passes] | Passes = (),
    measure: bool = True,
) -> Front:
    """Makes forms of a model that trade accuracy for bytes and time, from a form without compression to one of about the largest drop.

    Forms are chosen without labels, by the estimated harm of their steps; their drops are measured on the rows for the certificate of
    `evaluate`, which no choice sees. Each form is saved when it is finished, and Ctrl-C returns those that are.

    Args:
        model: The model, in eval mode.
        target: See `recfx.optimize`.
        example_inputs: Likewise. Times are measured at batch 1 and at the batch of the example.
        evaluate: Likewise.
        folder: The folder for the saved forms, `front.json` and, with matplotlib, `front.png`: a new or empty one, or that of an earlier
            front, which is replaced.
        calibration: See `recfx.optimize`.
        max_drop: About the largest drop of the metric that is of interest.
        confidence: The confidence of the intervals of drops.
        points: The most forms, with the one without compression.
        max_batch: See `recfx.optimize`.
        extra_passes: Likewise.
        measure: Whether times are measured.

    Returns:
        The front; `print` shows it as a table.

    Raises:
        ArtifactError: The folder cannot be used.
        InputError: An argument cannot be used, or `evaluate` cannot be trusted.
        DataError: The evaluation data cannot be used.
        RecfxError: See `recfx.optimize`.
    """
    if isinstance(model, CompiledModel) or not isinstance(model, torch.nn.Module):
        raise InputError(
            f"expected an nn.Module, got {type(model).__name__}", hint="pass your own model, not a compiled one"
        )
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise InputError(f"a front cannot have points={points!r}", hint="give 2 or more")
    if not max_drop > 0:
        raise InputError(
            f"a front cannot reach to max_drop={max_drop}", hint="give a positive drop of the metric, such as 1e-2"
        )
    budget = Budget(max_drop, confidence)
    resources = resources_of(calibration)
    where = Path(folder)
    extra = as_listed(extra_passes)
    options = Options(
        target if isinstance(target, str) else tuple(target),
        choose_pipeline(None, target, False, "fp32", extra),
        lenient=True,
        max_batch=max_batch,
        measure=measure,
        resources=resources,
    )
    require_finite(model)
    judge = Judge(measure_of(evaluate), budget, model)
    require_folder(where)
    args, kwargs = split_example(example_inputs, model)
    data = resources.get("calibration") or choice_rows(evaluate)
    with stages_of(type(model).__name__) as stages:
        road = open_road(model, options, args, kwargs, weakref.ref(model), stages)
    judge.begin()
    found = Compositions(road, extra, data, _PREFERENCES[0])
    found.rank()
    return explored(type(model).__name__, [found.preferring(p) for p in _PREFERENCES], judge, where, points)
