"""Capture: an nn.Module and example inputs become a `Program`.

The ladder: `torch.export` non-strict, then strict, then a `CaptureError` that says what to change. A draft export is only ever used
to explain. What was captured is compared with the user's model before anything else happens to it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.errors import CaptureError
from recfx.ir.bags import Bags
from recfx.ir.capture_by_sizes import capture_by_sizes, compared
from recfx.ir.decompositions import decompose
from recfx.ir.explicit_forward import explicit_forward
from recfx.ir.export_ladder import export_model, quiet
from recfx.ir.find_bags import bags_of_call, with_distinct_counts
from recfx.ir.functionalize import functionalize
from recfx.ir.inline import inline_regions
from recfx.ir.inputs import Call, distinct_values, leaf_names, normalize_call, register_containers
from recfx.ir.jagged import batch_leaf, is_jagged
from recfx.ir.model_state import ModelState, unchanged
from recfx.ir.one_row import can_be_cut, for_two_rows, refusal_of_one_row, specialise_rows
from recfx.ir.program import Program, copy_module
from recfx.ir.propagate import fake_mode_of, free_symbols, refresh
from recfx.ir.shapes import BATCH, infer_dynamic_shapes, positions, sizes_of, widen_batch
from recfx.ir.signature import LeafSpec, Signature
from recfx.ir.size_inputs import fixed_size_notices, with_size_inputs
from recfx.ir.state_names import rename_clashes
from recfx.ir.strides import read_in_order

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
    specialise: bool = False,
) -> Program:
    """Captures a model in eval mode as a functional graph with a free batch dimension.

    Args:
        model: The model.
        args: Example positional inputs: tensors, or any nesting of tuples, lists, dicts, dataclasses and
            KeyedJaggedTensors of tensors and constants. Two rows or more is best; one row is repeated.
        kwargs: Example keyword inputs.
        dynamic_shapes: Which dimensions vary, in torch.export's form; by default dimension 0 of every tensor that has the
            batch's size, from 1 to `max_batch`. False fixes all shapes to the example's.
        max_batch: The largest batch the program shall take.
        check: Compare with the model on other inputs and batch sizes.
        cases: Further flat inputs to compare on.
        specialise: Where a `squeeze` drops the batch dimension of one row, or one row is computed in another way, take two rows
            and more; `capture_one_row` makes the program for one row.

    Raises:
        CaptureError: The model is in training mode, cannot be traced, writes to its inputs or state, is random in eval
            mode, or the graph does not compute what the model does.
        InputError: The example inputs do not fit `forward`.
    """
    _require_eval(model)
    call = distinct_values(normalize_call(model, args, kwargs or {}))
    with unchanged(model) as state:
        _first_run(model, call, state)
        bags = bags_of_call(model, call)
        given = call
        if dynamic_shapes is None:
            call = call.with_values(widen_batch(call.values, bags))
        state.restore()
        try:
            program = _captured(model, call, dynamic_shapes, max_batch, bags, specialise=specialise)
            program.cases = tuple(cases)
            state.restore()  # tracing may have left fake tensors in the model's caches
            if check:
                program = _compared(program, model, call, narrow=dynamic_shapes is None and specialise)
        except CaptureError as error:
            if dynamic_shapes is not None or not check or bags:
                raise
            state.restore()

            def trace(fixed: Call) -> Program:
                traced = _captured(model, fixed, False, max_batch, (), specialise=False)
                state.restore()
                return traced

            program = capture_by_sizes(model, list({id(c): c for c in (given, call)}.values()), trace, max_batch, error)
    program.notices += tuple(range_notices(program.signature, max_batch if dynamic_shapes is None else None))
    program.notices += tuple(fixed_size_notices(program) if dynamic_shapes is None else ())
    return program


def _compared(program: Program, model: torch.nn.Module, call: Call, *, narrow: bool) -> Program:
    """The program, compared with the model; for two rows and more where the model refuses one row or computes something else for it."""
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
        compared(tied, model, call)  # where the size was baked in, the traces at several batch sizes free it
    return tied


def _captured(
    model: torch.nn.Module, call: Call, dynamic_shapes: Any, max_batch: int, bags: Sequence[Bags], *, specialise: bool
) -> Program:
    leaves, in_spec = pytree.tree_flatten((tuple(call.values), {}))
    traced = with_distinct_counts(call, bags) if dynamic_shapes is None else call
    explicit, shown = explicit_forward(model, traced)
    exported, method = export_model(explicit, shown, _shapes_for(shown, dynamic_shapes, max_batch, bags))
    program = _to_program(exported, call, leaves, in_spec, bags)
    program.bags = tuple(bags)
    if dynamic_shapes is None and specialise:
        program = specialise_rows(program)
    program.notices = () if method == "non-strict" else ("captured with strict export (non-strict export failed)",)
    return program


def _first_run(model: torch.nn.Module, call: Call, state: ModelState) -> None:
    """Runs the model once while its tensors are watched, so that those it writes to are copied before the first write.

    Container types of its outputs are made known to torch, which would refuse them.
    """
    values = pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, tuple(call.values))
    fresh = call.with_values(values)
    with torch.no_grad(), state.watch():
        try:
            outputs = model(*fresh.args, **fresh.kwargs)
        except Exception:  # noqa: BLE001 - the comparison that follows runs the same inputs and reports the error
            outputs = None
    register_containers(outputs)
    state.restore()


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
    with quiet():
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    out_spec = exported.call_spec.out_spec
    assert out_spec is not None
    _drop_guard_calls(module)
    module.graph.set_codegen(fx.graph.CodeGen())
    free = free_symbols(module)
    inline_regions(module)
    decompose(module)
    functionalize(module)
    module = copy_module(module)
    _flat_output(module)
    refresh(module)
    mode = fake_mode_of(module.graph)
    mode.cache_enabled = torch._dynamo.config.fake_tensor_cache_enabled  # passes compute the same values often
    if free - free_symbols(module):
        raise CaptureError(
            "an operator of the model fixes a dimension that must be free, when its shapes are recomputed",
            where=", ".join(call.names),
            hint="pass dynamic_shapes=False to capture this model for the example's shapes alone",
        )
    signature = _signature(exported, module, call, leaves, in_spec, out_spec, bags, read_in_order(module))
    return Program(module, signature, tuple(leaves), properties=frozenset({"functional"}))


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


def _signature(
    exported: torch.export.ExportedProgram,
    module: fx.GraphModule,
    call: Call,
    leaves: Sequence[Any],
    in_spec: pytree.TreeSpec,
    out_spec: pytree.TreeSpec,
    bags: Sequence[Bags],
    contiguous: Container[fx.Node],
) -> Signature:
    names = leaf_names(call)
    placeholders = module.graph.find_nodes(op="placeholder")
    symbols = _batch_symbol(call, [node.meta.get("val") for node in placeholders], bags)
    specs = []
    for leaf_name, node, leaf in zip(names, placeholders, leaves, strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            sizes, ordered = sizes_of(value, symbols), node in contiguous
            specs.append(LeafSpec(leaf_name, "tensor", value.dtype, value.device, sizes, contiguous=ordered))
        else:
            specs.append(LeafSpec(leaf_name, "constant", value=leaf))
    dims: dict[str, tuple[int, int | None]] = {}
    for symbol, bounds in exported.range_constraints.items():
        name = symbols.get(str(symbol))
        if name is not None:
            unbounded = str(bounds.upper) in ("int_oo", "oo") or int(bounds.upper) >= 2**62
            lower = min(int(bounds.lower), _derived_lower(exported, symbol))
            dims[name] = (lower, None if unbounded else int(bounds.upper))
    return Signature(
        parameters=call.names,
        defaults=call.defaults,
        in_spec=in_spec,
        out_spec=out_spec,
        leaves=tuple(specs),
        dims=dims,
        keyword_only=frozenset(call.kwargs),
    )


def _batch_symbol(call: Call, values: Sequence[Any], bags: Sequence[Bags]) -> dict[str, str]:
    """The symbol of the batch: of dimension 0 of the first plain tensor where that is free, else of the bounds of bags."""
    bounds = {group.bounds for group in bags}
    ids = {leaf for group in bags for leaf in group.members}
    told: dict[str, str] = {}
    parts = pytree.tree_leaves(call.values, is_leaf=is_jagged)
    for part, position in zip(parts, positions(parts), strict=True):
        holds_bags = is_jagged(part) or position in bounds
        leaf, axis = (batch_leaf(part) or (0, None)) if is_jagged(part) else (0, -1 if position in bounds else 0)
        value = values[position + leaf]
        if axis is None or position in ids or not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        size = value.shape[axis]
        symbols = size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ()
        found: dict[str, str] = {str(symbol): BATCH for symbol in symbols} if len(symbols) == 1 else {}
        if found and not holds_bags:
            return found
        told = told or found
    return told


def _derived_lower(exported: torch.export.ExportedProgram, symbol: Any) -> int:
    """The smallest value of a symbol that stands in the inputs only inside a size such as `keys * batch` or `batch + 1`.

    Export assumes such a symbol to be 2 at least; the range of the size tells what the model needs. For others, a large number.
    """
    lowest = [2**62]
    for expression, bounds in exported.range_constraints.items():
        if expression != symbol and expression.free_symbols == {symbol}:
            base = expression.subs({symbol: 0})
            factor = sympy.simplify((expression - base) / symbol)
            if factor.is_Integer and factor > 0:
                lowest.append(-((int(base) - int(bounds.lower)) // int(factor)))
    return min(lowest)


def range_notices(signature: Signature, max_batch: int | None) -> list[str]:
    """What to say of a program that takes fewer batch sizes than were asked for."""
    if BATCH not in signature.dims or max_batch is None:
        return []
    low, high = signature.dims[BATCH]
    fixed = [f"{leaf.name} {list(leaf.shape)}" for leaf in signature.leaves if _is_fixed(leaf)]
    notices = []
    if fixed:
        notices.append(
            f"sizes that are not the batch's are fixed to the example's: {', '.join(fixed)}; pass dynamic_shapes to free them"
        )
    if low > 1 or (high is not None and high < max_batch):
        notices.append(f"a branch on the batch size in forward limits the program to batches {low} to {high}")
    return notices


def _is_fixed(leaf: LeafSpec) -> bool:
    """Whether an input has rows, and as many at every call."""
    return bool(leaf.shape) and leaf.shape[0] != 1 and all(isinstance(size, int) for size in leaf.shape)
