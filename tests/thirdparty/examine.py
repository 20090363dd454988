"""Captures and optimises one model of the corpus, and compares the results with the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from corpus import COMPARED_BATCHES, BuiltModel, ModelCase, generator
from torch import Tensor
from torch.utils import _pytree as pytree

import recfx
from recfx.capture import capture
from recfx.driver import build
from recfx.driver.measure import do_no_harm
from recfx.driver.parts import Parts
from recfx.ir import Program
from recfx.ir.shapes import BATCH

MAX_BATCH = 4096


@dataclass
class Outcome:
    """The outcome of one model.

    Attributes:
        label: `library/name`.
        error: The message of the `CaptureError`, if it was raised.
        differences: Per batch size, the largest difference of captured or optimised outputs from eager ones,
            relative to the largest eager output; 0.0 means bitwise equal.
        refused: Per batch size, the error of the model itself.
        notices: The notices of capture.
        backend: The backend of the compiled model, without the operators that torch runs.
        left: The operators that torch runs in it, with the reason for each.
        operators: The number of its operators.
        ratios: Batch -> time of the compiled model over the time of eager; empty when nothing was measured.
        eager_kept: Whether do-no-harm keeps the model itself.
    """

    label: str
    error: str | None = None
    differences: dict[int, float] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    backend: str = ""
    left: tuple[tuple[str, str], ...] = ()
    operators: int = 0
    ratios: dict[int, float] = field(default_factory=dict)
    eager_kept: bool = False

    @property
    def captured(self) -> bool:
        """Whether capture succeeded."""
        return self.error is None

    @property
    def worst(self) -> float:
        """The largest relative difference over all batch sizes."""
        return max(self.differences.values())


def examine(case: ModelCase, *, target: str = "cpu", measure: bool = False) -> Outcome:
    """Captures and optimises one model and compares both with eager at batches 1, 2, 7 and 64, on fresh inputs.

    The captured program is the one that was optimized. The model is built again for the comparison, because some models
    keep tables that they compute in their first call. Do-no-harm is off: it may return the user's own model, which
    makes the comparison trivial.

    Args:
        case: The model.
        target: The target of the compiled model.
        measure: Compare times with eager as well.
    """
    outcome = Outcome(case.label)
    args, kwargs = case.build().example()
    programs: list[Program] = []

    def recorded(*given: Any, **options: Any) -> Program:
        programs.append(capture(*given, **options))
        return programs[-1]

    try:
        with mock.patch.object(build, "capture", recorded):
            fast = recfx.optimize(
                case.build().model,
                target=target,
                example_inputs=args,
                example_kwargs=kwargs,
                max_batch=MAX_BATCH,
                measure=False,
            )
    except recfx.CaptureError as error:
        outcome.error = str(error)
        return outcome
    program = programs[0]
    outcome.notices = program.notices
    report = fast.report
    outcome.backend = next((name for name in report.backend if name != "eager"), "eager")
    outcome.left, outcome.operators = report.left_to_torch, report.lowered_operators
    eager = case.build()
    for batch in COMPARED_BATCHES:
        _compare(outcome, eager, (program, fast), batch)
    if measure:
        _measure(outcome, fast.parts, eager)
    return outcome


def _measure(outcome: Outcome, parts: Parts, eager: BuiltModel) -> None:
    """The measurements of `optimize` in its default mode, at one row and at the example's batch."""
    measured = [do_no_harm(each, eager.model).report for each in (parts, parts.one_row) if each is not None]
    outcome.eager_kept = measured[0].kept_eager
    for found in (each for report in measured for each in report.measured):
        outcome.ratios[found.batch] = found.ratio[0]


def _compare(outcome: Outcome, eager: BuiltModel, others: tuple[Callable[..., Any], ...], batch: int) -> None:
    def call(function: Callable[..., Any]) -> list[Any]:
        args, kwargs = eager.inputs(batch, generator(100 + batch))
        with torch.no_grad():
            return pytree.tree_leaves(function(*args, **kwargs))

    try:
        expected = call(eager.model)
    except (RuntimeError, IndexError, ValueError) as error:
        outcome.refused[batch] = f"{type(error).__name__}: {error}".splitlines()[0]
        return
    found = [call(other) for other in others if _takes(other, batch)]
    if len(found) < len(others):
        said = "runs a plan of its own" if found else "is outside the captured range"
        outcome.notices += (f"a batch of {batch} {said}",)
    if found:
        outcome.differences[batch] = max(difference(expected, one) for one in found)


def _takes(other: Callable[..., Any], batch: int) -> bool:
    """Whether a captured program or a compiled model accepts a batch size; a notice reports a smaller range than the
    model's."""
    programs = [other] if isinstance(other, Program) else [other.program]
    if isinstance(other, recfx.CompiledModel) and other.parts.one_row is not None:
        programs.append(other.parts.one_row.program)
    ranges = [p.signature.dims.get(BATCH) for p in programs]
    return any(r is None or r[0] <= batch <= (r[1] or batch) for r in ranges)


def difference(expected: list[Any], actual: list[Any]) -> float:
    """The largest absolute difference over the largest expected magnitude; infinite if structure, shape or dtype
    differ."""
    if len(expected) != len(actual):
        return float("inf")
    return max(_leaf_difference(want, got) for want, got in zip(expected, actual, strict=True))


def _leaf_difference(want: Any, got: Any) -> float:
    if not isinstance(want, Tensor):
        return 0.0 if want == got else float("inf")
    if not isinstance(got, Tensor) or want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if torch.equal(want, got):
        return 0.0
    gap = (want.double() - got.double()).abs().max()
    return float("inf") if gap.isnan() else float(gap / want.double().abs().max().clamp(min=1e-30))


def spread(built: BuiltModel) -> float:
    """The variation of a model's outputs over a batch of 64 different rows, relative to their magnitude. A model with
    constant outputs would agree with a wrong graph.
    """
    args, kwargs = built.inputs(64, generator(7))
    with torch.no_grad():
        outputs = pytree.tree_leaves(built.model(*args, **kwargs))
    found = []
    for output in outputs:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel() >= 64:
            rows = output.reshape(64, -1).double()
            found.append(float(rows.std(dim=0).max() / rows.abs().max().clamp(min=1e-30)))
    return max(found)
