"""Capture from traces at several batch sizes, for models that hide the batch from the tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.arranged_call import ArrangedCall, arranged_call, batch_sizes
from recfx.capture.crosscheck import compare_with_model
from recfx.capture.generalize import Different, generalize
from recfx.capture.inputs import Call, leaf_names
from recfx.capture.size_range import MAX_BATCH
from recfx.errors import CaptureError, RecfxError
from recfx.ir.batch_axes import Arrangement
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH

_LOOPS = "replace the Python loop over the rows by operators over the whole batch, such as stack, gather or a mask"
_PARTS = "reshape the batch to [-1, n, ...], or take single parts with slices, whose number the batch does not change"
_FIXED = "take the size from x.shape[0] or write -1, never a literal"
#: Part of the reason why traces differ -> the change to make.
_MENDS = {"loops over the rows": _LOOPS, "another number of parts": _PARTS}

#: Parts of capture errors whose causes do not depend on the batch size.
_NOT_SIZES = (
    "takes a decision, or a size, from the values",
    "writes to its",
    "max_norm writes to",
    "different answers for the same inputs",
)


def capture_by_sizes(
    model: torch.nn.Module,
    calls: Sequence[Call],
    trace: Callable[[Call], Program],
    free: Callable[..., Program],
    max_batch: int,
    first: CaptureError,
) -> Program:
    """Captures a model from traces at several batch sizes.

    Args:
        model: The model.
        calls: The forms of the example to try.
        trace: Captures the model with fixed shapes.
        free: Captures the model with a free batch, in given dimensions or in each first one.
        max_batch: The largest batch.
        first: The error of the capture with a free batch.

    Raises:
        CaptureError: This capture fails as well: `first`, or an error that names the obstacle.
    """
    if any(cause in first.what for cause in _NOT_SIZES):
        raise first
    places = _places(model, calls)
    for found in places:
        if (program := capture_with_axes(model, found, free, max_batch)) is not None:
            return program
    if not places:
        raise first
    found = places[0] if places[0].rows > 1 else places[0].resized(2)
    call, arrangement, rows = found.call, found.arrangement, found.rows
    leaves, spec = pytree.tree_flatten(tuple(call.values))

    def trace_leaves(resized: Sequence[Any]) -> Program:
        return trace(call.with_values(pytree.tree_unflatten(list(resized), spec)))

    try:
        program = generalize(arrangement, leaves, rows, trace_leaves, max_batch)
        program.notices += tuple(compared(program, model, call))
    except Different as reason:
        hint = next((mend for words, mend in _MENDS.items() if words in str(reason)), None)
        if arrangement.plain() and hint is None:
            return _from_larger_batch(model, call, arrangement, rows, free, first)
        raise CaptureError(
            f"{type(model).__name__} could not be captured: {reason}",
            where=first.where,
            hint=hint or _hint(call, arrangement),
        ) from first
    except CaptureError as error:
        if arrangement.plain() or error.what == first.what:
            raise first from None
        raise CaptureError(
            f"{first.what}; traces at several batch sizes did not help: {error.what}",
            where=first.where,
            hint=_hint(call, arrangement),
        ) from error
    return program


def _places(model: torch.nn.Module, calls: Sequence[Call]) -> list[ArrangedCall]:
    """Where the batch may be, in several forms of a call: one row with several entries only if other sizes leave a tensor without rows."""
    tried = [(call, batch_sizes(call)) for call in calls]
    several = [(call, [size]) for call, sizes in tried for size in sizes if size > 1]
    found: list[ArrangedCall] = []
    for call, sizes in several:
        place = arranged_call(model, call, sizes)
        if place is not None:
            found.append(place)
            if place.is_complete:
                return found
    ones = [arranged_call(model, call, [1]) for call, sizes in tried if 1 in sizes]
    return [*found, *(place for place in ones if place is not None and place.gives_rows(model))]


def capture_with_axes(
    model: torch.nn.Module, found: ArrangedCall, free: Callable[..., Program], max_batch: int
) -> Program | None:
    """Captures a model once, with the batch where it was found; None where that is of no use, or fails."""
    if found.is_default or found.arrangement.sizes or not found.gives_rows(model):
        return None
    found = found if found.rows > 1 else found.resized(2)
    try:
        program = free(found.call, found.marks(max(max_batch, MAX_BATCH)))
        if BATCH not in program.signature.dims:
            return None
        program.notices += tuple(compared(program, model, found.call))
    except CaptureError:
        return None
    return program


def _from_larger_batch(
    model: torch.nn.Module,
    call: Call,
    arrangement: Arrangement,
    rows: int,
    free: Callable[..., Program],
    first: CaptureError,
) -> Program:
    """Captures the model with a free batch from more rows. With few rows, a part such as `x[:-5]` may be one row, which fixes the batch.

    Raises:
        CaptureError: `first`, if more rows do not help.
    """
    leaves, spec = pytree.tree_flatten(tuple(call.values))
    larger = arrangement.resized(leaves, rows, 2 * rows + 7)
    try:
        program = free(call.with_values(pytree.tree_unflatten(larger, spec)))
        if BATCH not in program.signature.dims:
            raise first
        program.notices += tuple(compared(program, model, call))
    except CaptureError:
        raise first from None
    return program


def compared(program: Program, model: torch.nn.Module, call: Call) -> list[str]:
    """Calls `compare_with_model`, and raises `CaptureError` also when the program fails on inputs that the model accepts."""
    try:
        return compare_with_model(program, model, call)
    except RecfxError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise CaptureError(
            f"the captured graph fails on inputs that the model accepts: {text[:300]}",
            where=type(model).__name__,
            hint=f"capture fixed a value that depends on the inputs; {_FIXED}",
        ) from error


def _hint(call: Call, arrangement: Arrangement) -> str:
    """The next step for the user: it names the inputs without the batch in dimension 0."""
    names = leaf_names(call)
    odd = [f"{names[i]} is the batch size" for i in sorted(arrangement.sizes)]
    odd += [
        f"{name} has the batch in dimension {axis.dim}" + (f", {axis.step} times" if axis.step > 1 else "")
        for name, axis in zip(names, arrangement.axes, strict=True)
        if axis is not None and (axis.dim, axis.step) != (0, 1)
    ]
    return f"{_FIXED}; " * (not odd) + (
        "; ".join(odd) + ": pass it with the batch first, and take sizes from its shape" if odd else ""
    )
