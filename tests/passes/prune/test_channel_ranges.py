"""Ranges of channels hold for every input."""

from __future__ import annotations

import pytest
import torch
from channel_cases import Graph, aten
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_kit import with_linears_between

from recfx.ir import Program
from recfx.passes import FoldAffine
from recfx.passes.prune.channel_ranges import Range, channel_ranges, zero_slices
from recfx.pipeline import PassContext
from recfx.testing import rec_graphs, tensors_for


def ranges_of(program: Program) -> dict[str, Range]:
    return {node.name: found for node, found in channel_ranges(PassContext(program, FoldAffine.spec)).items()}


@settings(max_examples=15)
@given(st.data())
def test_every_value_lies_in_its_range(data: st.DataObject) -> None:
    program = with_linears_between(data.draw(rec_graphs(), label="graph"))
    found = ranges_of(program)
    leaves = iter(data.draw(tensors_for(program), label="inputs"))
    values = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(leaves)
        elif node.op == "get_attr":
            values[node] = program.state()[str(node.target)].detach()
        elif node.op == "call_function":
            args = torch.fx.map_arg(node.args, values.__getitem__)
            kwargs = torch.fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = node.target(*args, **kwargs)
        if node.name in found and values[node].numel():
            held = values[node].detach().double()
            slack = 1e-4 * (1 + held.abs().nan_to_num(0, 0, 0).max())
            inside = held.isnan() | ((held >= found[node.name].low - slack) & (held <= found[node.name].high + slack))
            assert inside.all(), (node, node.target)


def test_sums_of_bounded_channels_are_bounded() -> None:
    g = Graph()
    hidden = g.call(aten.sigmoid.default, g.layer(3))
    weight = g.constant(torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    product = g.call(aten.linear.default, hidden, weight, g.constant(torch.tensor([0.5, 7.0])))
    found = ranges_of(g.builder.build(product))[product.name]
    assert found.low.tolist() == [-1.5, 7.0]
    assert found.high.tolist() == [1.5, 7.0]
    assert found.constant.tolist() == [False, True]


def test_weights_with_nan_give_no_bounds() -> None:
    g = Graph()
    hidden = g.call(aten.relu.default, g.layer(2))
    product = g.call(aten.linear.default, hidden, g.constant(torch.tensor([[-1.0, torch.nan], [-1.0, -1.0]])))
    found = ranges_of(g.builder.build(product))[product.name]
    assert found.low.tolist() == [-torch.inf, -torch.inf]
    assert found.high.tolist() == [torch.inf, 0.0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_zero_slices(axis: int) -> None:
    tensor = torch.randn(20, 24, 30)
    where = [slice(None)] * 3
    where[axis] = 5  # type: ignore[call-overload]
    tensor[tuple(where)] = 0
    tensor.movedim(axis, 0)[7, :16, :16] = 0  # zeros in all numbers that are read first
    assert zero_slices(tensor, axis).nonzero().flatten().tolist() == [5]


def test_an_unknown_operand_bounds_only_products_with_zero() -> None:
    g = Graph()
    x = g.layer(20)
    weight = torch.randn(3, 20)
    weight[0] = 0.0
    weight[1, :19] = 0.0
    parts = {
        "rows of zeros": g.call(aten.linear.default, x, g.constant(weight)),
        "no rows of zeros": g.call(aten.linear.default, x, g.constant(torch.randn(3, 20))),
        "times zero": g.call(aten.mul.Tensor, x, 0),
        "times two": g.call(aten.mul.Tensor, x, 2),
        "times itself": g.call(aten.mul.Tensor, x, x),
        "plus itself": g.call(aten.add.Tensor, x, x),
    }
    found = ranges_of(g.builder.build(g.call(aten.cat.default, list(parts.values()), 1)))
    known = {name: found[part.name] for name, part in parts.items() if part.name in found}
    assert known.keys() == {"rows of zeros", "times zero"}
    assert known["rows of zeros"].constant.tolist() == [True, False, False]
    assert known["times zero"].constant.all()
