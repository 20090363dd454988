"""Constants behind operators that only take parts of state, and the spellings of layers x -> act(W x + b)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from recfx.passes.cross.mappings import beside, bias_of, constant, mapped, path, plain
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


N, K = 3, 4
W = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
B = torch.randn(N, generator=torch.Generator().manual_seed(1))


class Spelling:
    """A graph of inputs x [B, K], column [B, K, 1], rows [B, 2, K] and other [K, N], with a weight and a bias."""

    def __init__(self) -> None:
        half = torch.float64
        self.g = GraphBuilder(
            {
                "x": ("batch", K),
                "column": ("batch", K, 1),
                "rows": ("batch", 2, K),
                "bias": (N,),
                "other": (K, N),
                "d": (("batch", K), half),
            }
        )
        self.x, self.column, self.rows, self.bias_in, self.other, self.double = self.g.inputs.values()
        held = {
            "w": W,
            "wt": W.T.contiguous(),
            "b": B,
            "b2": B[None],
            "bc": B[:, None],
            "one": B[:1],
            "bd": B.double(),
            "cube": W[None],
        }
        self.w, self.wt, self.b, self.b2, self.bc, self.one, self.bd, self.cube = (
            self.g.state(n, t) for n, t in held.items()
        )

    def linear(self, bias: bool = False) -> fx.Node:
        return self.g.call(aten.linear.default, self.x, self.w, *([self.b] if bias else []))

    def add(self, a: Any, b: Any, **kwargs: Any) -> fx.Node:
        return self.g.call(aten.add.Tensor, a, b, **kwargs)

    def product(self, kind: str = "matmul") -> fx.Node:
        return self.g.call(getattr(aten, kind).default, self.x, self.wt)

    def on_column(self) -> fx.Node:
        return self.g.call(aten.matmul.default, self.w, self.column)

    def act(self, node: fx.Node, name: str = "relu") -> fx.Node:
        return self.g.call(getattr(aten, name).default, node)

    def mapped(self, node: fx.Node) -> tuple[fx.Node, Any] | None:
        placed = self.g.call(aten.neg.default, node)
        used = [self.g.call(aten.neg.default, given) for given in self.g.inputs.values()]
        program = self.g.build(placed, *used)
        (last,) = [n for n in program.graph.nodes if n.name == placed.name]
        return mapped(PassContext(program, SPEC), last.args[0])


#: Name -> the layer, whether it has the bias, and its activation.
LAYERS: dict[str, tuple[Callable[[Spelling], fx.Node], bool, Any]] = {
    "a linear": (lambda s: s.linear(), False, None),
    "a linear with a bias": (lambda s: s.linear(bias=True), True, None),
    "a product": (lambda s: s.product(), False, None),
    "a product by mm": (lambda s: s.product("mm"), False, None),
    "a matrix times a column": (lambda s: s.on_column(), False, None),
    "a bias behind": (lambda s: s.add(s.product(), s.b), True, None),
    "a bias in front": (lambda s: s.add(s.b, s.linear()), True, None),
    "a bias of two dimensions": (lambda s: s.add(s.product(), s.b2), True, None),
    "a bias of a column": (lambda s: s.add(s.on_column(), s.bc), True, None),
    "an activation": (lambda s: s.act(s.add(s.product(), s.b)), True, aten.relu.default),
    "another activation": (lambda s: s.act(s.linear(), "tanh"), False, aten.tanh.default),
    "a column of rows": (
        lambda s: s.g.call(aten.matmul.default, s.w, s.g.call(aten.unsqueeze.default, s.x, 2)), False, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_the_spellings_of_a_layer(name: str) -> None:
    make, bias, act = LAYERS[name]
    spelling = Spelling()
    found = spelling.mapped(make(spelling))
    assert found is not None
    node, layer = found
    assert node.name == ("column" if name in ("a matrix times a column", "a bias of a column") else "x")
    assert torch.equal(layer.weight, W)
    assert torch.equal(bias_of(layer), B if bias else torch.zeros(N))
    assert (layer.bias is not None) == bias
    assert (None if layer.act is None else layer.act[0]) == act


#: Name -> a node that is not one layer.
NO_LAYERS: dict[str, Callable[[Spelling], fx.Node]] = {
    "an input": lambda s: s.x,
    "two activations": lambda s: s.act(s.act(s.linear()), "tanh"),
    "a bias behind an activation": lambda s: s.add(s.act(s.linear()), s.b),
    "two biases": lambda s: s.add(s.linear(bias=True), s.b),
    "two added biases": lambda s: s.add(s.add(s.product(), s.b), s.b),
    "one number": lambda s: s.add(s.product(), s.one),
    "a bias of another type": lambda s: s.add(s.product(), s.bd),
    "a bias with a factor": lambda s: s.add(s.product(), s.b, alpha=2),
    "a bias of each row and column": lambda s: s.add(s.on_column(), s.b),
    "a bias that is an input": lambda s: s.add(s.product(), s.bias_in),
    "a linear whose bias is an input": lambda s: s.g.call(aten.linear.default, s.x, s.w, s.bias_in),
    "a linear of three dimensions": lambda s: s.g.call(aten.linear.default, s.rows, s.w),
    "a product of three dimensions": lambda s: s.g.call(aten.matmul.default, s.rows, s.wt),
    "a matrix times two columns": lambda s: s.g.call(
        aten.matmul.default, s.w, s.g.call(aten.transpose.int, s.rows, 1, 2)
    ),
    "a product of inputs": lambda s: s.g.call(aten.matmul.default, s.x, s.other),
    "a product with a cube": lambda s: s.g.call(aten.matmul.default, s.x, s.g.call(aten.transpose.int, s.cube, 1, 2)),
    "another operator": lambda s: s.g.call(aten.mul.Tensor, s.x, s.x),
    "a sum of layers": lambda s: s.add(s.linear(), s.product()),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_LAYERS)
def test_what_is_not_one_layer(name: str) -> None:
    spelling = Spelling()
    found = spelling.mapped(NO_LAYERS[name](spelling))
    assert found is None


def _layer(make: Callable[[Spelling], fx.Node]) -> Any:
    spelling = Spelling()
    found = spelling.mapped(make(spelling))
    assert found is not None
    return found[1]


def test_mappings_of_one_input_beside_each_other() -> None:
    first, second = (_layer(lambda s, bias=bias: s.linear(bias)) for bias in (False, True))
    both = beside([first, second])
    assert torch.equal(both.weight, torch.cat([W, W]))
    assert torch.equal(bias_of(both), torch.cat([torch.zeros(N), B]))
    assert beside([first, first]).bias is None


@pytest.mark.parametrize(("layers", "read"), [(1, 1), (4, 4), (5, 0)])
def test_the_layers_between_two_values(layers: int, read: int) -> None:
    """The last first; a path of more than four layers has none."""
    g = GraphBuilder({"x": ("batch", N)})
    weights = [torch.randn(N, N) for _ in range(layers)]
    node = g.inputs["x"]
    for number, weight in enumerate(weights):
        node = g.call(aten.relu.default, g.call(aten.linear.default, node, g.state(f"w{number}", weight)))
    program = g.build(node)
    x, last = program.graph.find_nodes(op="placeholder")[0], program.graph.output_node().args[0][0]
    found = list(path(PassContext(program, SPEC), last, x))
    assert len(found) == read
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(found, reversed(weights), strict=False))
    assert list(path(PassContext(program, SPEC), x, x)) == []


#: Name -> views of x [B, 4] or column [B, 4, 1], and whether the value behind them is the input.
VIEWS: dict[str, tuple[Callable[[Spelling], fx.Node], str | None]] = {
    "a column": (lambda s: s.g.call(aten.unsqueeze.default, s.x, 2), "x"),
    "a column from the end": (lambda s: s.g.call(aten.unsqueeze.default, s.x, -1), "x"),
    "rows": (lambda s: s.g.call(aten.squeeze.dim, s.column, 2), "column"),
    "there and back": (lambda s: s.g.call(aten.squeeze.dim, s.g.call(aten.unsqueeze.default, s.x, 2), -1), "x"),
    "another dimension": (lambda s: s.g.call(aten.unsqueeze.default, s.x, 1), None),
    "a dimension before the rows": (lambda s: s.g.call(aten.unsqueeze.default, s.x, 0), None),
    "a dimension behind a column": (lambda s: s.g.call(aten.unsqueeze.default, s.column, -1), None),
    "a dimension that does not go": (lambda s: s.g.call(aten.squeeze.dim, s.rows, 2), None),
    "the middle dimension": (lambda s: s.g.call(aten.squeeze.dim, s.column, 1), None),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views_between_rows_and_columns(name: str) -> None:
    make, behind = VIEWS[name]
    spelling = Spelling()
    node = make(spelling)
    assert plain(node) is (node if behind is None else spelling.g.inputs[behind])
