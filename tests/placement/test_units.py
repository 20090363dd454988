"""Units of placement: views, chains, parts of tuples, sizes, and what each backend supports."""

from __future__ import annotations

import operator
from typing import Any

import torch
from hypothesis import given, settings
from placement_kit import TableCosts, aten, chain, table_of
from torch import fx

from recfx.ir.program import Program
from recfx.placement.sizes import Bytes
from recfx.placement.units import UnitGraph, unit_graph
from recfx.targets import Verdict
from recfx.testing import GraphBuilder, rec_graphs


def graph_of(program: Program, refused: dict[str, list[str]] | None = None) -> UnitGraph:
    return table_of(program, TableCosts({}), ["native", "other", "eager"], refused).graph


def names(graph: UnitGraph) -> list[list[str]]:
    return [[node.name for node in unit.nodes] for unit in graph.units]


def test_a_chain_of_elementwise_operators_joins_its_producer() -> None:
    program = chain(
        aten.linear.default, aten.relu.default, aten.tanh.default, aten.linear.default, aten.sigmoid.default
    )
    found = names(graph_of(program))
    assert [len(unit) for unit in found] == [3, 2]


def test_a_chain_ends_where_a_backend_cannot_follow() -> None:
    program = chain(aten.linear.default, aten.relu.default, aten.tanh.default)
    tanh = next(node.name for node in program.graph.nodes if node.target is aten.tanh.default)
    graph = graph_of(program, {"native": [tanh]})
    assert [len(unit) for unit in names(graph)] == [2, 1]
    assert [unit.backends for unit in graph.units] == [("native", "other", "eager"), ("other", "eager")]


def test_a_value_with_two_readers_ends_a_chain_but_takes_its_views() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    y = b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.randn(6, 4)))
    view = b.call(aten.unsqueeze.default, y, 1)
    relu = b.call(aten.relu.default, y)
    graph = graph_of(b.build(view, relu))
    assert names(graph) == [[y.name, view.name], [relu.name]]


def test_parts_of_a_tuple_are_in_the_unit_of_the_tuple() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    pair = b.call(aten.max.dim, b.inputs["x"], 1)
    parts = [b.call(operator.getitem, pair, 0), b.call(operator.getitem, pair, 1)]
    graph = graph_of(b.build(*parts))
    assert names(graph) == [[pair.name, *(part.name for part in parts)]]


def test_sizes_are_in_no_unit_and_are_computed_where_their_operand_is() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    y = b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.randn(6, 4)))
    rows = b.call(aten.sym_size.int, y, 0)
    view = b.call(aten.view.default, y, [rows, 2, 3])
    graph = graph_of(b.build(view))
    assert names(graph) == [[y.name, view.name]]
    inside = [node.name for node in graph.units[0].region.graph.nodes if node.op == "call_function"]
    assert inside == [y.name, rows.name, view.name]
    assert graph.units[0].region.inputs == ("x",)


def test_bytes_follow_the_rows() -> None:
    program = chain(aten.linear.default)
    (node,) = [n for n in program.graph.nodes if n.op == "call_function"]
    assert [Bytes(program, rows).of(node) for rows in (1, 100)] == [16, 1600]


def is_size(node: fx.Node) -> bool:
    return not isinstance(node.meta["val"], torch.Tensor | tuple | list)


@settings(deadline=None, max_examples=15)
@given(rec_graphs(max_steps=10))
def test_every_operator_is_in_one_unit_whose_region_computes_the_same(program: Program) -> None:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    verdicts: dict[str, dict[fx.Node, Verdict]] = {"eager": {node: Verdict(True) for node in calls}}
    graph = unit_graph(program, verdicts)
    held = [node for unit in graph.units for node in unit.nodes]
    assert sorted(n.name for n in held) == sorted(n.name for n in calls if not is_size(n))
    values: dict[str, Any] = {}
    interpreter = _Recorder(program.module, values)
    with torch.no_grad():
        interpreter.run(*program.example)
    for unit in graph.units:
        found = unit.region.run([values[name] for name in unit.region.inputs])
        for name, value in zip(unit.region.outputs, found, strict=True):
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(), values[name].nan_to_num())


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, values: dict[str, Any]) -> None:
        super().__init__(module)
        self.values = values

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = found = super().run_node(n)
        return found
