"""Tensors that passes add: which are parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recfx.ir.trained_state import takes_over, trained_dtypes
from recfx.pipeline.context import PassContext
from recfx.pipeline.spec import PassSpec
from recfx.testing.builder import GraphBuilder

aten = torch.ops.aten


def context(weight: torch.Tensor, *, behind_a_view: bool = False) -> tuple[PassContext, Any]:
    """A product of an input with a stored weight, and its node."""
    builder = GraphBuilder({"x": ("batch", 3)})
    read = builder.state("weight", weight)
    read = builder.call(aten.permute.default, read, [1, 0]) if behind_a_view else read
    product = builder.call(aten.matmul.default, builder.inputs["x"], read)
    builder_program = builder.build(product)
    (node,) = builder_program.graph.find_nodes(op="call_function", target=aten.matmul.default)
    return PassContext(builder_program, PassSpec("test-pass", "Tests.")), node


CASES = {
    "a parameter": (nn.Parameter(torch.randn(3, 3)), torch.randn(3, 2), True),
    "a frozen parameter": (nn.Parameter(torch.randn(3, 3), requires_grad=False), torch.randn(3, 2), False),
    "a buffer": (torch.randn(3, 3), torch.randn(3, 2), False),
    "codes of a parameter": (nn.Parameter(torch.randn(3, 3)), torch.ones(3, 2, dtype=torch.int8), False),
    "a bfloat16 copy of a parameter": (nn.Parameter(torch.randn(3, 3)), torch.randn(3, 2).bfloat16(), False),
}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_new_tensor_is_a_parameter_if_it_stands_for_one(case: str, view: bool) -> None:
    weight, new, trained = CASES[case]
    ctx, node = context(weight, behind_a_view=view)
    with ctx.before(node):
        made = ctx.constant("weight_new", new)
    held = ctx.stored(made)
    assert isinstance(held, nn.Parameter) == trained
    assert torch.equal(held, new)


def test_a_value_of_the_inputs_stands_for_no_parameter() -> None:
    ctx, node = context(nn.Parameter(torch.randn(3, 3)))
    relu = ctx.graph.call_function(aten.relu.default, (node,))
    assert not takes_over(torch.randn(3), trained_dtypes(relu, ctx.tensor))


def test_a_stored_tensor_keeps_its_name_and_kind() -> None:
    weight = nn.Parameter(torch.randn(3, 3), requires_grad=False)
    ctx, _ = context(weight)
    reads = list(ctx.graph.find_nodes(op="get_attr"))
    ctx.store(reads, torch.randn(3, 2))
    held = ctx.program.state()["weight"]
    assert isinstance(held, nn.Parameter)
    assert not held.requires_grad
    assert held.shape == reads[0].meta["val"].shape == (3, 2)
    assert ctx.reads_of(held) == reads
