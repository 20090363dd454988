"""Capture of a model for one row, in addition to a program that accepts two rows and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recfx.capture.capture import capture
from recfx.capture.inputs import normalize_call
from recfx.capture.model_state import unchanged
from recfx.capture.one_row import can_be_cut, needs_one_row, one_row_call, one_row_cases, refusal_of_one_row
from recfx.errors import CaptureError
from recfx.ir.probes import probes
from recfx.ir.program import Program


def capture_one_row(
    model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], program: Program
) -> Program | str | None:
    """Captures a model for one row, when the program from the same example accepts only two rows and more.

    Args:
        model: The model.
        args: The positional inputs of the example from which `program` was captured.
        kwargs: The keyword inputs of the example.
        program: The result of `capture`.

    Returns:
        The program for one row; a notice when the model refuses one row or one row cannot be captured; None when `program` accepts one
        row itself.
    """
    signature = program.signature
    if not needs_one_row(signature):
        return None
    if not can_be_cut(signature):
        return "the compiled model takes two rows or more: the inputs cannot be cut to one row"
    call = normalize_call(model, args, kwargs).with_values(signature.nested(program.example))
    with unchanged(model):
        refusal = refusal_of_one_row(model, call, signature)
    if refusal is not None:
        return f"the model itself refuses one row, so the compiled model takes two rows or more: {refusal}"
    one = one_row_call(call, signature)
    try:
        return capture(model, one.args, one.kwargs, dynamic_shapes=False, cases=one_row_cases(program, probes(program)))
    except CaptureError as error:
        return f"one row cannot be captured, so the compiled model takes two rows or more: {error.what}"
