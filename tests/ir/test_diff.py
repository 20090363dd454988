"""The exact text of programs and of their differences."""

from __future__ import annotations

import operator
import re
from typing import Any

import pytest
import torch

from recfx.ir import Program, diff, same_graph
from recfx.ir.diff import ancestor
from recfx.ir.printer import describe, human_bytes, operator_name, render, symbol_names, value_text
from recfx.pipeline import PassContext, PassSpec
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def program(
    weight: torch.Tensor | None = None,
    number: Any = 2.0,
    *,
    dim: Any = 1,
    swap: bool = False,
    last: Any = aten.relu.default,
) -> Program:
    b = GraphBuilder({"x": ("batch", 4), "ids": (("batch",), torch.int64)})
    rows = b.call(aten.embedding.default, b.state("t", torch.ones(3, 4) if weight is None else weight), b.inputs["ids"])
    scaled = b.call(aten.mul.Tensor, b.inputs["x"], number)
    joined = b.call(aten.cat.default, [scaled, rows] if swap else [rows, scaled], dim)
    return b.build(b.call(last, joined), scaled)


def test_a_program_as_text() -> None:
    made = program()
    nodes = [n for n in made.graph.nodes if n.op == "call_function"]
    nodes[1].meta["nn_module_stack"] = {"a": ("tower", "Tower")}
    names = [n.name for n in nodes]
    assert render(made).splitlines() == [
        "program(x: float32[batch, 4], ids: int64[batch])",
        "  batch in 1..65536",
        "  table  t: float32[3, 4], 48 B",
        "  48 B of state in all",
        "  [top level]",
        f"    {names[0]}: float32[batch, 4] = aten.embedding(t, ids)",
        "  [tower]",
        f"    {names[1]}: float32[batch, 4] = aten.mul.Tensor(x, 2.0)",
        "  [top level]",
        f"    {names[2]}: float32[batch, 8] = aten.cat([{names[0]}, {names[1]}], 1)",
        f"    {names[3]}: float32[batch, 8] = aten.relu({names[2]})",
        f"  return [{names[3]}, {names[1]}]",
    ]
    short = render(made, max_nodes=1).splitlines()
    assert short[5:] == [
        f"    {names[0]}: float32[batch, 4] = aten.embedding(t, ids)",
        "  … 3 more operators",
        f"  return [{names[3]}, {names[1]}]",
    ]
    assert "more operators" not in render(made, max_nodes=4)
    assert str(made) == render(made)


def test_sizes_and_weights_as_text() -> None:
    b = GraphBuilder({"x": ("batch", "length", 4)}, max_batch=9)
    linear = b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.ones(3, 4)), None)
    made = b.build(b.call(aten.sum.dim_IntList, linear, [1], True, dtype=torch.float64))
    text = render(made).splitlines()
    assert text[1:5] == [
        "  batch in 1..9",
        "  length in 1..",
        "  weight w: float32[3, 4], 48 B",
        "  48 B of state in all",
    ]
    assert "float32[batch, length, 3] = aten.linear(x, w, None)" in text[6]
    assert "float64[batch, 1, 3] = aten.sum.dim_IntList(linear_default, [1], True, dtype=torch.float64)" in text[7]
    assert sorted(symbol_names(made).values()) == ["batch", "length"]
    assert "[batch" not in describe(next(n for n in made.graph.nodes if n.op == "call_function"))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (26_600_000, "26.6 MB"),
        (999.94e6, "999.9 MB"),
        (3e9, "3.0 GB"),
        (2.5e12, "2.5 TB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_bytes_as_text(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_values_and_operators_as_text() -> None:
    assert value_text(torch.zeros(2, 3, dtype=torch.int32)) == "int32[2, 3]"
    assert value_text((torch.zeros(()), [torch.zeros(1), 3])) == "(float32[], (float32[1], int))"
    assert value_text(None) == "?"
    assert value_text(2.5) == "float"
    assert operator_name(aten.linear.default) == "aten.linear"
    assert operator_name(aten.add.Tensor) == "aten.add.Tensor"
    assert operator_name(operator.getitem) == "getitem"
    assert operator_name(operator.mul) == "mul"
    assert operator_name(torch.ops.recfx.cross.default) == "recfx.cross"
    assert operator_name("x") == "x"


def test_equal_programs_have_no_difference() -> None:
    for other in (program(), program().clone(), program(torch.ones(3, 4).clone())):
        assert diff(program(), other) == ""
        assert same_graph(program(), other) is None


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (program(number=3.0), "different arguments"),
        (program(number=2), "different arguments"),
        (program(dim=-1), "different arguments"),
        (program(swap=True), "get_attr t against .*aten.mul"),
        (program(last=aten.tanh.default), "aten.relu.* against .*aten.tanh"),
        (program(torch.ones(3, 4) * 2), "the state t differs from t"),
        (program(torch.ones(5, 4)), "the state t differs from t"),
        (program(-torch.zeros(3, 4)), "the state t differs from t"),
    ],
)
def test_the_first_difference_of_graphs(other: Program, text: str) -> None:
    for one, two in ((program(), other), (other, program())):
        assert same_graph(one, two) is not None
    found = same_graph(program(), other)
    assert found is not None
    assert re.search(text, found), found


def test_arguments_are_compared_with_their_types() -> None:
    for one, two in ((0.0, -0.0), (1, True), (1.0, 1), (float("nan"), 0.0)):
        assert (same_graph(program(number=one), program(number=two)) is None) == (one == two and type(one) is type(two))
    assert same_graph(program(number=float("nan")), program(number=float("nan"))) is None


def test_nodes_that_nothing_reads_count() -> None:
    longer = program().clone()
    (output,) = longer.graph.find_nodes(op="output")
    with longer.graph.inserting_before(output):
        extra = longer.graph.call_function(aten.neg.default, (longer.placeholders()[0],))
    extra.meta["val"] = longer.placeholders()[0].meta["val"]
    assert "nodes against" in str(same_graph(program(), longer)) or "against" in str(same_graph(program(), longer))
    assert same_graph(longer, program()) is not None
    assert same_graph(longer, longer.clone()) is None


def test_a_difference_names_what_went_and_what_came() -> None:
    before = program()
    after = before.clone()
    ctx = PassContext(after, PassSpec("swap", "For a test."))
    (relu,) = ctx.nodes(aten.relu.default)
    relu.meta["nn_module_stack"] = {"a": ("head", "Head")}
    with ctx.before(relu):
        new = ctx.call(aten.tanh.default, relu.args[0])
    name, source = relu.name, relu.args[0].name  # type: ignore[union-attr]
    ctx.replace(relu, new)
    assert ancestor(new, {name: relu}) == name
    assert ancestor(new, {}) is None
    symbol = next(iter(symbol_names(before)))
    assert diff(before, after).splitlines() == [
        f"- {name}: float32[{symbol}, 8] = aten.relu({source})",
        f"+ {new.name}: float32[{symbol}, 8] = aten.tanh({source})   [head]",
        "operators: 4 → 4 (aten.relu 1 → 0, aten.tanh 0 → 1)",
    ]
    changed = before.clone()
    (mul,) = [n for n in changed.graph.nodes if n.target is aten.mul.Tensor]
    mul.args = (mul.args[0], 7)
    assert diff(before, changed).splitlines()[-1] == "operators: 4 → 4"
    assert len(diff(before, changed).splitlines()) == 3
    assert diff(after, before).splitlines()[0].startswith("- ")
