"""Turns the result of torch.export into a `Program`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.capture.control_flow import inline_conditions
from recfx.capture.export_ladder import quiet
from recfx.capture.exported_signature import exported_signature
from recfx.capture.function_transforms import without_transforms
from recfx.capture.functionalize import functionalize
from recfx.capture.inline import inline_regions
from recfx.capture.inputs import Call
from recfx.capture.quick_trace import late_code, quick_values
from recfx.capture.state_names import rename_clashes
from recfx.capture.strides import read_in_order
from recfx.errors import CaptureError
from recfx.ir.bags import Bags
from recfx.ir.decompositions import decompose
from recfx.ir.held_values import plain_numbers
from recfx.ir.program import Program, copy_module, without_unread_state
from recfx.ir.propagate import fake_mode_of, free_symbols, refresh


def to_program(
    exported: torch.export.ExportedProgram,
    call: Call,
    leaves: Sequence[Any],
    in_spec: pytree.TreeSpec,
    bags: Sequence[Bags],
) -> Program:
    """The program of an export: one functional graph without calls of regions, guards and unread state.

    Args:
        exported: The export.
        call: The example call.
        leaves: The leaves of the example inputs.
        in_spec: The nesting of the inputs.
        bags: The bags among the leaves.

    Raises:
        CaptureError: An operator of the model fixes a dimension that must be free, or works on sub-graphs that cannot be inlined.
    """
    exported = without_transforms(exported)
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
    inline_conditions(module)
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
