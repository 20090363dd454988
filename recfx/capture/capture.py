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
from torch import fx
from torch.utils import _pytree as pytree

from recfx.capture.batch_limits import limit_notices
from recfx.capture.capture_by_sizes import capture_by_sizes, compared
from recfx.capture.crosscheck import refusal_of_batch
from recfx.capture.explicit_forward import explicit_forward, without_held
from recfx.capture.export_ladder import export_model, quiet
from recfx.capture.exported_signature import exported_signature, fixed_input_notices
from recfx.capture.find_bags import bags_of_call, with_distinct_counts
from recfx.capture.functionalize import functionalize
from recfx.capture.inline import inline_regions
from recfx.capture.inputs import Call, distinct_values, normalize_call, register_containers
from recfx.capture.model_state import ModelState, unchanged
from recfx.capture.one_row import can_be_cut, for_two_rows, refusal_of_one_row, specialise_rows
from recfx.capture.quick_trace import late_code, quick_values
from recfx.capture.size_inputs import fixed_size_notices, with_size_inputs
from recfx.capture.size_range import with_true_range
from recfx.capture.state_names import rename_clashes
from recfx.capture.strides import read_in_order
from recfx.errors import CaptureError
from recfx.ir.bags import Bags
from recfx.ir.decompositions import decompose
from recfx.ir.held_values import holds_values, plain_numbers
from recfx.ir.program import Program, copy_module, without_unread_state
from recfx.ir.propagate import fake_mode_of, free_symbols, refresh
from recfx.ir.shapes import BATCH, infer_dynamic_shapes, widen_batch

MAX_BATCH = 65536


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
        given = call
        if dynamic_shapes is None:
            call = call.with_values(widen_batch(call.values, bags))
        state.restore()
        try:
            program = _captured(model, call, dynamic_shapes, max_batch, bags, held=held)
            program.cases = tuple(cases)
            state.restore()  # tracing may have left fake tensors in the model's caches
            if check:
                program = _compared(program, model, call, narrow=dynamic_shapes is None)
        except CaptureError as error:
            if dynamic_shapes is not None or not check or bags:
                raise
            state.restore()

            def trace(fixed: Call) -> Program:
                traced = _captured(model, fixed, False, max_batch, (), held=held)
                state.restore()
                return traced

            def trace_free(wider: Call) -> Program:
                traced = _captured(model, wider, None, max_batch, (), held=held)
                state.restore()
                return traced

            calls = list({id(c): c for c in (given, call)}.values())
            program = capture_by_sizes(model, calls, trace, trace_free, max_batch, error)
    if dynamic_shapes is None:
        with unchanged(model):
            limits = limit_notices(
                program, max_batch, program.branches, partial(refusal_of_batch, model, call, program)
            )
        program.notices += (*fixed_input_notices(program.signature), *limits, *fixed_size_notices(program))
    return program


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
) -> Program:
    leaves, in_spec = pytree.tree_flatten((tuple(call.values), {}))
    traced = with_distinct_counts(call, bags) if dynamic_shapes is None else call
    explicit, shown = without_held(*explicit_forward(model, traced), outputs=held)
    export = export_model(explicit, shown, _shapes_for(shown, dynamic_shapes, max_batch, bags))
    program = _to_program(export.program, call, leaves, in_spec, bags)
    if export.assumed and program.signature.dims.get(BATCH, (0, 0))[0] == 2:
        # The tracer assumes that every size is two or more. The comparison tests one row as well.
        dims = {**program.signature.dims, BATCH: (1, program.signature.dims[BATCH][1])}
        program.signature = dataclasses.replace(program.signature, dims=dims)
    program.bags = tuple(bags)
    program.decided, program.doubtful, program.branches = export.decided, export.doubtful, export.branches
    if dynamic_shapes is None:
        program = specialise_rows(program)
    program = with_true_range(program)
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
    marks = infer_dynamic_shapes(tuple(call.values), max_batch, bags)
    return call.like_signature(marks)


def _to_program(
    exported: torch.export.ExportedProgram,
    call: Call,
    leaves: Sequence[Any],
    in_spec: pytree.TreeSpec,
    bags: Sequence[Bags],
) -> Program:
    rename_clashes(exported)
    with quiet(), late_code():
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    out_spec = exported.call_spec.out_spec
    assert out_spec is not None
    module = copy_module(module)  # its code is generated when it is called, and not after each of the following edits
    _drop_guard_calls(module)
    module.graph.set_codegen(fx.graph.CodeGen())
    free = free_symbols(module)
    inline_regions(module)
    _plain_arguments(module)
    decompose(module)
    functionalize(module)
    module = without_unread_state(module)
    _flat_output(module)
    with quick_values():
        refresh(module)
    mode = fake_mode_of(module.graph)
    mode.cache_enabled = torch._dynamo.config.fake_tensor_cache_enabled  # for values that `known_values` does not hold
    if free - free_symbols(module):
        raise CaptureError(
            "an operator of the model fixes a dimension that must be free",
            where=", ".join(call.names),
            hint="pass dynamic_shapes=False to capture the model for the shapes of the example only",
        )
    signature = exported_signature(exported, module, call, leaves, in_spec, out_spec, bags, read_in_order(module))
    return Program(module, signature, tuple(leaves), properties=frozenset({"functional"}))


def _plain_arguments(module: fx.GraphModule) -> None:
    """Replaces NumPy scalars and enumeration members in the arguments of operators by Python numbers."""
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args = plain_numbers(node.args)
            node.kwargs = {name: plain_numbers(value) for name, value in node.kwargs.items()}


def _drop_guard_calls(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
            delattr(module, "_guards_fn")


def _flat_output(module: fx.GraphModule) -> None:
    output = next(iter(reversed(module.graph.nodes)))
    if not isinstance(output.args[0], tuple | list):
        output.args = ((output.args[0],),)
    else:
        output.args = (tuple(output.args[0]),)
    module.recompile()
