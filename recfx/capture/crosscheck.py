"""Comparison of a captured program with the user's model, on other inputs than the example.

Tracers can turn values into constants without a message (a mask, a batch size). Such a program is right on the example and wrong on other
inputs, so the probes use other values and other batch sizes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.encoder_padding import attends, padded_with_zeros
from recfx.capture.inputs import Call
from recfx.errors import CaptureError
from recfx.ir.constants import same_constant
from recfx.ir.containers import canonical_output
from recfx.ir.difference import difference
from recfx.ir.held_values import held_by, is_held, split_outputs
from recfx.ir.known_runs import KnownRuns
from recfx.ir.probes import FEW_ROWS, checked_example, first_rows, has_fixed_bags, is_long, probes, reshuffle
from recfx.ir.program import Program
from recfx.ir.special_rows import judged, special_batches
from recfx.ir.tolerance import largest


def compare_with_model(program: Program, model: torch.nn.Module, call: Call) -> list[str]:
    """Runs the model and the program on the same inputs and compares their outputs.

    Sets `long_call` of the program if a call of the model on the example takes long.

    Returns:
        Notices about probes that were not compared because the model refuses them.

    Raises:
        CaptureError: The outputs differ, or two runs of the model differ.
    """
    program.known_runs = None
    with torch.no_grad():
        start = time.perf_counter()
        first = _run_example(model, call, program)
        program.long_call = _long_call(program, model, call, time.perf_counter() - start)
        name, leaves = checked_example(program)
        if program.long_call is not None:
            first = run_model(model, call, leaves)
        if not agree(first, run_model(model, call, leaves)):
            raise CaptureError(
                "the model gives different answers for the same inputs in eval mode",
                where=type(model).__name__,
                hint="remove the randomness from forward; an optimized model must be deterministic",
            )
        _require_agreement(first, _outputs(program, leaves), name, model)
        refused = []
        for name, leaves in probes(program):
            try:
                expected = run_model(model, call, leaves)
            except Exception:  # noqa: BLE001 - the model may refuse made-up inputs; that is reported, not hidden
                refused.append(name)
                continue
            _require_agreement(expected, _run_program(program, leaves, name, model), name, model)
        notices = _compare_special_rows(program, model, call)
        if attends(model):
            notices += _compare_with_fast_path(program, model, call)
    if refused:
        notices.append(
            f"the model itself refuses some made-up inputs, which were therefore not compared: {', '.join(refused)}"
        )
    return notices


def _long_call(program: Program, model: torch.nn.Module, call: Call, seconds: float) -> float | None:
    """The seconds of a call on the example if it is long, by a second measurement on a few rows: a first call may also prepare something.

    Args:
        program: The program.
        model: The user's model.
        call: The user's call.
        seconds: The seconds of the first call on the example.
    """
    few = first_rows(program) if is_long(seconds) else None
    if few is None:
        return None
    start = time.perf_counter()
    try:
        run_model(model, call, few)
    except Exception:  # noqa: BLE001 - a model may refuse another batch for any reason; the usual inputs are compared then
        return None
    whole = (time.perf_counter() - start) * (program.example_batch() or FEW_ROWS) / FEW_ROWS
    return seconds if is_long(whole) else None


def _compare_special_rows(program: Program, model: torch.nn.Module, call: Call) -> list[str]:
    """Compares on special rows; rows that the model refuses are skipped."""
    refused = []
    for batch, expected in judged(special_batches(program), partial(run_model, model, call)):
        try:
            found = _outputs(program, batch.leaves)
        except Exception as error:  # noqa: BLE001 - such a call raises an error instead of returning wrong results
            refused.append(f"{batch.name} ({type(error).__name__})")
            continue
        _require_agreement(expected, found, batch.name, model, by_row=True)
    return [f"the captured program refuses inputs that the model takes: {', '.join(refused)}"] if refused else []


def _compare_with_fast_path(program: Program, model: torch.nn.Module, call: Call) -> list[str]:
    """Compares with the model as torch runs it without gradients, one special row at a time.

    One row at a time, because torch's fast path depends on all rows of a batch. It gives NaN for a row whose keys are all hidden.
    """
    undefined, different = [], []
    rows = [row for batch in special_batches(program) if batch.name == "rows with special ids" for row in batch.split()]
    for row, expected in judged(rows, partial(run_model, model, call, fast_path=True)):
        for want, got in zip(expected, _outputs(program, row.leaves), strict=True):
            if not isinstance(want, torch.Tensor) or not want.is_floating_point() or not want.numel():
                continue
            if bool((want.isnan() & got.isfinite()).any()):
                undefined.append(row.kinds[0])
            finite = want.where(want.isfinite(), 0.0)
            size = 1e-4 * float(finite.abs().max())
            if not torch.allclose(finite, got.where(want.isfinite(), 0.0), rtol=1e-3, atol=size):
                different.append(row.kinds[0])
    notices = []
    if undefined:
        notices.append(
            "torch's fast path of attention gives NaN where every key of a row is masked; the compiled model gives numbers there: "
            + ", ".join(dict.fromkeys(undefined))
        )
    if different:
        notices.append(
            "torch's fast path of attention gives other numbers than its ordinary path, which the compiled model follows: "
            + ", ".join(dict.fromkeys(different))
        )
    return notices


def _outputs(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """The flat outputs of a program, in the order of `run_model`. They are kept for the comparison behind the passes."""
    if not isinstance(program.known_runs, KnownRuns):
        program.known_runs = KnownRuns(program)
    runs: KnownRuns = program.known_runs
    return runs.run(program, leaves) + held_by(program.signature.out_spec)


def run_model(model: torch.nn.Module, call: Call, leaves: Sequence[Any], *, fast_path: bool = False) -> list[Any]:
    """The flat outputs of the user's model for copies of flat inputs. Held values come last.

    By default, `nn.MultiheadAttention` does not use torch's fast path, as in capture: the fast path gives NaN for a query whose mask hides
    every key, and the operator in the graph gives zeros. `_compare_with_fast_path` reports the difference.
    """
    spec = pytree.tree_flatten((tuple(call.values), {}))[1]
    fresh = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    bound = call.with_values(pytree.tree_unflatten(fresh, spec)[0])
    with padded_with_zeros() if not fast_path else nullcontext():
        return split_outputs(canonical_output(model(*bound.args, **bound.kwargs)))


def refusal_of_batch(model: torch.nn.Module, call: Call, program: Program, rows: int) -> str | None:
    """The error of the user's model at a batch size; None when it accepts it, or the batch cannot be drawn."""
    if has_fixed_bags(program):
        return None
    leaves = reshuffle(program, rows, torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            run_model(model, call, leaves)
    except Exception as error:  # noqa: BLE001 - a model may refuse a batch for any reason, which the notice gives
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return None


def _run_program(program: Program, leaves: Sequence[Any], name: str, model: torch.nn.Module) -> list[Any]:
    try:
        return _outputs(program, leaves)
    except Exception as error:
        raise CaptureError(
            f"the captured graph fails on {name}, which the model accepts ({type(error).__name__}: {str(error).splitlines()[0]})",
            where=type(model).__name__,
            hint="capture fixed a value that depends on the inputs: look in forward for a size, a number of parts or a Python branch",
        ) from error


def _run_example(model: torch.nn.Module, call: Call, program: Program) -> list[Any]:
    try:
        return run_model(model, call, program.example)
    except Exception as error:
        raise CaptureError(
            f"the model itself fails on the example inputs ({type(error).__name__}: {error})",
            where=type(model).__name__,
            hint="give example inputs on which model(*inputs) works",
        ) from error


def _require_agreement(
    expected: list[Any], actual: list[Any], inputs: str, model: torch.nn.Module, *, by_row: bool = False
) -> None:
    if not agree(expected, actual, by_row=by_row):
        raise CaptureError(
            f"the captured graph disagrees with the model {difference(expected, actual)} on {inputs}",
            where=type(model).__name__,
            hint="capture fixed a value that depends on the inputs: look in forward for a mask, a size or a Python branch",
        )


def agree(expected: Sequence[Any], actual: Sequence[Any], *, by_row: bool = False) -> bool:
    """Whether flat outputs agree, in floating point up to a few last bits of the largest value."""
    if len(expected) != len(actual):
        return False
    for want, got in zip(expected, actual, strict=True):
        if isinstance(want, torch.Tensor):
            if not isinstance(got, torch.Tensor) or want.shape != got.shape or want.dtype != got.dtype:
                return False
            if not torch.equal(want, got) and not _close(want, got, by_row):
                return False
        elif is_held(want):
            if not same_constant(want, got):
                return False
        elif want != got:
            return False
    return True


def _close(want: torch.Tensor, got: torch.Tensor, by_row: bool) -> bool:
    """Whether two outputs agree. Capture does not change arithmetic; another memory layout may change a few last bits."""
    if not (want.is_floating_point() or want.is_complex()):
        return False
    scale = want.detach().abs()
    scale = scale.where(scale.isfinite(), 0.0)
    size = largest(scale, by_row)
    allowed = 64 * torch.finfo(want.dtype).eps * size.clamp(min=1e-30)
    same = (want == got) | (want.isnan() & got.isnan()) | ((want - got).abs() <= allowed)
    return bool(same.all())
