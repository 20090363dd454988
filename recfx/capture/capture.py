"""Capture: it turns an nn.Module and example inputs into a `Program`.

It tries `torch.export` non-strict, then strict, and else raises a `CaptureError` that names the change to make. A draft export only helps
to explain the error. Capture compares the program with the user's model before any other stage runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.arranged_call import ArrangedCall, arranged_call, batch_sizes
from recfx.capture.batch_limits import limit_notices
from recfx.capture.capture_by_sizes import capture_by_sizes, capture_with_axes, compared
from recfx.capture.crosscheck import refusal_of_batch
from recfx.capture.explicit_forward import explicit_forward, without_held
from recfx.capture.export_ladder import HiddenBatch, export_model
from recfx.capture.exported_signature import fixed_input_notices
from recfx.capture.find_bags import bags_of_call, with_distinct_counts
from recfx.capture.inputs import Call, distinct_values, normalize_call, register_containers
from recfx.capture.larger_batches import same_in_parts
from recfx.capture.model_state import ModelState, unchanged
from recfx.capture.one_row import can_be_cut, for_two_rows, refusal_of_one_row, specialise_rows
from recfx.capture.one_row_call import found_notices, one_row_call
from recfx.capture.size_inputs import fixed_size_notices, with_size_inputs
from recfx.capture.size_range import MAX_BATCH, most_rows, up_to, with_true_range
from recfx.capture.to_program import to_program
from recfx.errors import CaptureError
from recfx.ir.bags import Bags
from recfx.ir.held_values import holds_values
from recfx.ir.program import ENDS_AT_LARGEST_BATCH, Program
from recfx.ir.shapes import BATCH, infer_dynamic_shapes, widen_batch


def capture(
    model: torch.nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    max_batch: int = MAX_BATCH,
    check: bool = True,
    cases: Sequence[Sequence[Any]] = (),
) -> Program:
    """Captures a model in eval mode as a functional graph with a free batch dimension.

    Args:
        model: The model.
        args: Example positional inputs: tensors, or any nesting of tuples, lists, dicts, dataclasses and
            KeyedJaggedTensors of tensors and constants. Pass two rows or more; a single row is repeated for the trace.
        kwargs: Example keyword inputs.
        dynamic_shapes: The dynamic dimensions, in torch.export's form. By default, dimension 0 of every tensor that has the size of
            the batch, from 1 to `max_batch`. False fixes all shapes at those of the example.
        max_batch: The largest batch that the program accepts.
        check: Whether to compare the program with the model on other inputs and batch sizes.
        cases: Further flat inputs for the comparison.

    Returns:
        The program. It accepts two rows and more if a `squeeze` drops the batch dimension of one row, or if forward computes one row in
        another way; `capture_one_row` then makes the program for one row.

    Raises:
        CaptureError: The model is in training mode, cannot be traced, writes to its inputs or state, or is random in eval mode; or the
            graph does not compute the same as the model.
        InputError: The example inputs do not fit `forward`, or the example batch is empty or larger than `max_batch`.
    """
    _require_python(model)
    _require_eval(model)
    call = distinct_values(normalize_call(model, args, kwargs or {}))
    with unchanged(model) as state:
        held = holds_values(_first_run(model, call, state))
        bags = bags_of_call(model, call)
        searches = dynamic_shapes is None and check and not bags
        place = one_row_call(model, call) if searches else None
        given = call
        if place is not None:
            given = call = place.with_more_rows().call
        elif dynamic_shapes is None:
            call = call.with_values(widen_batch(call.values, bags))
        state.restore()
        tracer = _Tracer(model, state, dynamic_shapes, max_batch, bags, held, tuple(cases))
        program = tracer.searched(given, call, place) if searches else tracer.traced(call, check=check)
    in_parts = False
    if ENDS_AT_LARGEST_BATCH in program.properties:
        with unchanged(model):
            in_parts = same_in_parts(program, model, call)
        program.properties -= {ENDS_AT_LARGEST_BATCH} if in_parts else set()
    if dynamic_shapes is None:
        with unchanged(model):
            limits = limit_notices(
                program, max_batch, program.branches, partial(refusal_of_batch, model, call, program)
            )
        limits = [f"{notice}; a call of more rows runs in parts" if in_parts else notice for notice in limits]
        fixed = (*fixed_input_notices(program.signature), *limits, *fixed_size_notices(program))
        program.notices += (*found_notices(place), *fixed)
    return program


@dataclasses.dataclass
class _Tracer:
    """Captures one model in several ways, and restores its state after each trace.

    Attributes:
        model: The model.
        state: Its state, which tracing may leave with fake tensors in caches.
        dynamic_shapes: See `capture`.
        max_batch: Likewise.
        bags: The bags among the inputs.
        held: Whether the outputs contain values that export does not accept.
        cases: Further flat inputs for the comparison.
    """

    model: torch.nn.Module
    state: ModelState
    dynamic_shapes: Any
    max_batch: int
    bags: Sequence[Bags]
    held: bool
    cases: tuple[Sequence[Any], ...]

    def free(self, call: Call, marks: Sequence[Any] | None = None, *, divisible: bool = False) -> Program:
        """A program of the wanted dimensions, or of others: the dynamic dimensions of each parameter."""
        wanted, limit = self.dynamic_shapes, self.max_batch
        program = _captured(
            self.model, call, wanted, limit, self.bags, held=self.held, marks=marks, divisible=divisible
        )
        program.cases = self.cases
        self.state.restore()
        return program

    def fixed(self, call: Call) -> Program:
        """A program for the sizes of a call."""
        program = _captured(self.model, call, False, self.max_batch, (), held=self.held)
        self.state.restore()
        return program

    def traced(self, call: Call, *, check: bool, divisible: bool = False) -> Program:
        """A program of the wanted dimensions, compared with the model."""
        program = self.free(call, divisible=divisible)
        return _compared(program, self.model, call, narrow=self.dynamic_shapes is None) if check else program

    def searched(self, given: Call, call: Call, place: ArrangedCall | None) -> Program:
        """A program with a free batch, wherever the inputs hold it.

        Args:
            given: The example as the user gave it.
            call: The example with two rows or more.
            place: Where the batch of an example of one row is, if not only in first dimensions.
        """
        try:
            if place is not None:
                found = capture_with_axes(self.model, place, self.free, self.max_batch)
                self.state.restore()
                if found is not None:
                    return found
            try:
                return self.traced(call, check=True, divisible=True)
            except HiddenBatch as hidden:
                self.state.restore()
                step = hidden.step
            rows = [size // step for size in batch_sizes(given) if size % step == 0]
            other_place = arranged_call(self.model, given, rows)
            other = (
                None if other_place is None else capture_with_axes(self.model, other_place, self.free, self.max_batch)
            )
            return self.traced(call, check=True) if other is None else other
        except CaptureError as error:
            self.state.restore()
            calls = list({id(c): c for c in (given, call)}.values())
            return capture_by_sizes(self.model, calls, self.fixed, self.free, self.max_batch, error)


def _compared(program: Program, model: torch.nn.Module, call: Call, *, narrow: bool) -> Program:
    """Compares a program with the model, and returns it.

    The result accepts two rows and more if the model refuses one row, or computes it in another way.
    """
    narrowed = for_two_rows(program) if narrow else program
    if narrowed is not program and can_be_cut(program.signature):
        program = narrowed if refusal_of_one_row(model, call, program.signature) is not None else program
    try:
        notices = compared(program, model, call)
    except CaptureError as error:
        if narrowed is program:
            raise
        try:
            notices = compared(narrowed, model, call)
        except CaptureError:
            raise error from None
        program = narrowed
    program.notices += tuple(notices)
    if (tied := with_size_inputs(program)) is not program:
        compared(tied, model, call)  # if tracing fixed the size, this fails and `capture_by_sizes` frees it
    return tied


def _captured(
    model: torch.nn.Module,
    call: Call,
    dynamic_shapes: Any,
    max_batch: int,
    bags: Sequence[Bags],
    *,
    held: bool,
    marks: Sequence[Any] | None = None,
    divisible: bool = False,
) -> Program:
    leaves, in_spec = pytree.tree_flatten((tuple(call.values), {}))
    traced = with_distinct_counts(call, bags) if dynamic_shapes is None else call
    explicit, shown = without_held(*explicit_forward(model, traced), outputs=held)
    shapes = _shapes_for(shown, dynamic_shapes, max_batch, bags) if marks is None else shown.like_signature(marks)
    most = max_batch if dynamic_shapes is None else most_rows(dynamic_shapes)
    export = export_model(explicit, shown, shapes, divisible=divisible)
    program = to_program(export.program, call, leaves, in_spec, bags)
    if export.assumed and program.signature.dims.get(BATCH, (0, 0))[0] == 2:
        # The tracer assumes that every size is two or more. The comparison tests one row as well.
        dims = {**program.signature.dims, BATCH: (1, program.signature.dims[BATCH][1])}
        program.signature = dataclasses.replace(program.signature, dims=dims)
    program.bags = tuple(bags)
    program.decided, program.doubtful, program.branches = export.decided, export.doubtful, export.branches
    if dynamic_shapes is None:
        program = specialise_rows(program)
    program = up_to(
        with_true_range(program), most, traced=max(most or 0, MAX_BATCH) if dynamic_shapes is None else most
    )
    program.notices = ("captured with strict export (non-strict export failed)",) if export.strict else ()
    return program


def _first_run(model: torch.nn.Module, call: Call, state: ModelState) -> Any:
    """Runs the model once. `state` copies each tensor of the model before the first write to it.

    Registers the container types of the outputs with torch's pytrees; export refuses unknown types.

    Returns:
        The outputs; None when the model fails.
    """
    values = pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, tuple(call.values))
    fresh = call.with_values(values)
    with torch.no_grad(), state.watch():
        try:
            outputs = model(*fresh.args, **fresh.kwargs)
        except Exception:  # noqa: BLE001 - the later comparison runs the same inputs and reports the error
            outputs = None
    register_containers(outputs)
    state.restore()
    return outputs


def _require_python(model: torch.nn.Module) -> None:
    """Refuses modules without a Python forward, and weights without values."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                "the model holds TorchScript, which has no Python forward to trace",
                where=name or type(module).__name__,
                hint="use the nn.Module that it was scripted or traced from, with the same state_dict",
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise CaptureError(
                "a lazy module has uninitialised parameters",
                where=name,
                hint="call the model once on an example first",
            )
        if tensor.is_meta:
            raise CaptureError(
                "a weight is on the meta device and has no values",
                where=name,
                hint='move the model with model.to_empty(device="cpu") and load its state_dict first',
            )


def _require_eval(model: torch.nn.Module) -> None:
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        shown = ", ".join(training[:3]) + (" …" if len(training) > 3 else "")
        raise CaptureError(
            "the model is in training mode",
            where=f"{len(training)} module(s): {shown}",
            hint="call model.eval() first: dropout and batch statistics would change the answers",
        )


def _shapes_for(call: Call, dynamic_shapes: Any, max_batch: int, bags: Sequence[Bags]) -> Any:
    if dynamic_shapes is False:
        return None
    if dynamic_shapes is not None:
        return dynamic_shapes
    marks = infer_dynamic_shapes(tuple(call.values), max_batch, bags, traced_batch=max(max_batch, MAX_BATCH))
    return call.like_signature(marks)
