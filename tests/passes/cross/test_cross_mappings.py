"""Constants behind operators that only take parts of state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from recfx.passes.cross.mappings import constant
from recfx.pipeline.context import PassContext
from recfx.pipeline.spec import PassSpec
from recfx.testing.builder import GraphBuilder

aten = torch.ops.aten
SPEC = PassSpec("look", "For a test.")
WEIGHT = torch.arange(24.0).reshape(4, 6)

PARTS: dict[str, Callable[[GraphBuilder, fx.Node], fx.Node]] = {
    "itself": lambda g, w: w,
    "a row": lambda g, w: g.call(aten.select.int, w, 0, 1),
    "turned rows": lambda g, w: g.call(aten.permute.default, g.call(aten.slice.Tensor, w, 0, 1, 3), [1, 0]),
    "another shape": lambda g, w: g.call(aten.reshape.default, w, [2, -1]),
}
OTHERS: dict[str, Callable[[GraphBuilder, fx.Node], fx.Node]] = {
    "an input": lambda g, w: g.inputs["x"],
    "as many rows as the batch": lambda g, w: g.call(aten.slice.Tensor, w, 0, 0, rows(g)),
    "a part of an input": lambda g, w: g.call(aten.select.int, g.inputs["x"], 1, 0),
    "a sum": lambda g, w: g.call(aten.sum.dim_IntList, w, [0]),
}


def rows(g: GraphBuilder) -> fx.Node:
    return g.call(aten.sym_size.int, g.inputs["x"], 0)


def found(make: Callable[[GraphBuilder, fx.Node], fx.Node]) -> Any:
    g = GraphBuilder({"x": ("batch", 4)})
    node = make(g, g.state("w", WEIGHT))
    program = g.build(g.call(aten.relu.default, node))
    (last,) = program.graph.find_nodes(op="call_function", target=aten.relu.default)
    return constant(PassContext(program, SPEC), last.args[0])


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_state_are_constants(name: str) -> None:
    expected = {
        "itself": WEIGHT,
        "a row": WEIGHT[1],
        "turned rows": WEIGHT[1:3].T,
        "another shape": WEIGHT.reshape(2, -1),
    }
    assert torch.equal(found(PARTS[name]), expected[name])


@pytest.mark.parametrize("name", OTHERS)
def test_values_that_depend_on_inputs_are_none(name: str) -> None:
    assert found(OTHERS[name]) is None


def test_a_number_is_none() -> None:
    g = GraphBuilder({"x": ("batch", 4)})
    assert constant(PassContext(g.build(g.call(aten.relu.default, g.inputs["x"])), SPEC), 2.0) is None
