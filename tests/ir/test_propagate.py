"""Types and sizes of values, computed from those of the inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pass_cases import Function

from recfx.capture import capture
from recfx.errors import VerificationError
from recfx.ir.program import Program
from recfx.ir.propagate import free_symbols, propagate, refresh

aten = torch.ops.aten


@pytest.fixture(scope="module")
def program() -> Program:
    """A model with a size that depends on values."""
    return capture(Function(lambda m, x: (x > 0).nonzero().float().sum() + x.sum()), (torch.randn(4, 3),))


def _node(program: Program, target: Any) -> Any:
    return next(node for node in program.graph.nodes if node.target is target)


def test_a_size_that_depends_on_values_keeps_its_symbol(program: Program) -> None:
    node = _node(program, aten.nonzero.default)
    size = node.meta["val"].shape[0]
    for own_memory in (False, True):
        found = propagate(program.module, own_memory=own_memory)[node]
        assert str(found.shape[0]) == str(size)
        assert found.shape[1] == 2


def test_all_values_are_those_that_capture_recorded(program: Program) -> None:
    found = propagate(program.module)
    for node, value in found.items():
        if isinstance(value, torch.Tensor):
            assert (value.dtype, str(value.shape)) == (node.meta["val"].dtype, str(node.meta["val"].shape))
    some = [_node(program, aten.nonzero.default)]
    assert list(propagate(program.module, some)) == some
    assert len(free_symbols(program.module)) == 1


def test_an_operator_that_rejects_its_arguments_is_named() -> None:
    held = capture(Function(lambda m, x: (x @ x.T).relu()), (torch.randn(4, 3),)).clone()
    node = _node(held, aten.relu.default)
    with held.graph.inserting_before(node):
        wrong = held.graph.call_function(aten.mm.default, (held.placeholders()[0], held.placeholders()[0]))
    node.replace_input_with(node.args[0], wrong)
    for again in (propagate, refresh):
        with pytest.raises(VerificationError, match=r"mm\.default rejects its arguments") as caught:
            again(held.module)
        assert wrong.name in str(caught.value.where)
