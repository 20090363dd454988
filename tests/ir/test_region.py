"""Splitting programs into regions, and running the regions one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from torch import fx

import recfx
from recfx.capture import capture
from recfx.ir import Program
from recfx.ir.region import Region, Split, split
from recfx.runtime.schedule import schedule
from recfx.testing import rec_graphs

NAMES = ("first", "second", "third")


def operators(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def plain(found: Split) -> list[Any]:
    """The reference of every region as its runner."""
    return [lambda *values, region=region: region.run(values) for region in found.regions]


def bitwise(expected: list[Any], found: Any) -> bool:
    pairs = list(zip(expected, found, strict=True))
    return all(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


@settings(max_examples=40)
@given(program=rec_graphs(max_steps=10), data=st.data())
def test_any_assignment_gives_the_same_answers(program: Program, data: st.DataObject) -> None:
    assignment = {node: data.draw(st.sampled_from(NAMES)) for node in operators(program)}
    found = split(program, assignment)
    members = [name for index in range(len(found.regions)) for name in found.members(index)]
    assert sorted(members) == sorted(node.name for node in operators(program))
    with torch.no_grad():
        assert bitwise(program.run(program.example), schedule(found, plain(found))(*program.example))


@settings(max_examples=40)
@given(program=rec_graphs(max_steps=10), data=st.data())
def test_regions_are_convex_and_hold_operators_of_one_backend(program: Program, data: st.DataObject) -> None:
    assignment = {node: data.draw(st.sampled_from(NAMES)) for node in operators(program)}
    found = split(program, assignment)
    known = {node.name for node in program.placeholders()}
    for index, region in enumerate(found.regions):
        assert set(region.inputs) <= known, "a region reads the output of a later one"
        known |= set(region.outputs)
        for node in operators(program):
            tensor = isinstance(node.meta["val"], torch.Tensor) and "getitem" not in str(node.target)
            if node.name in found.members(index) and tensor:
                assert assignment[node] == found.backends[index]


def chain() -> Program:
    """A linear, a ReLU and a linear."""
    return capture(
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval(), (torch.randn(4, 3),)
    )


def test_one_backend_is_one_region_with_the_program_s_own_graph() -> None:
    program = chain()
    found = split(program, dict.fromkeys(operators(program), "first"))
    (region,) = found.regions
    assert region.module is program.module
    assert found.backends == ("first",)
    (runner,) = plain(found)
    assert schedule(found, [runner]) is runner


def test_a_chain_of_two_backends_alternates() -> None:
    program = chain()
    linear, relu, last = operators(program)
    found = split(program, {linear: "first", relu: "second", last: "first"})
    assert found.backends == ("first", "second", "first")
    assert [region.inputs for region in found.regions] == [("input_1",), (linear.name,), (relu.name,)]
    assert [region.outputs for region in found.regions] == [(linear.name,), (relu.name,), (last.name,)]
    assert found.regions[0].checked == {"input_1"}
    assert not found.regions[1].checked
    assert all(region.batch == found.regions[0].batch for region in found.regions)


def test_operators_that_wait_for_nothing_share_a_region() -> None:
    program = capture(TinyCtr(), tiny_inputs(4))
    lookups = {node for node in operators(program) if "embedding" in str(node.target)}
    found = split(program, {n: "first" if n in lookups else "second" for n in operators(program)})
    assert found.backends.count("first") == 1


def test_values_are_freed_behind_their_last_reader() -> None:
    program = chain()
    linear, relu, last = operators(program)
    found = split(program, {linear: "first", relu: "second", last: "third"})
    source = str(schedule(found, plain(found)).__doc__)
    assert "= v_input_1 = None" in source or "v_input_1 = None" in source
    assert source.count("= None") >= 3  # the input, and the results of the first two regions


def test_graphs_become_part_of_the_schedule() -> None:
    program = capture(TinyCtr(), tiny_inputs(4))
    found = split(program, {node: NAMES[i % 3] for i, node in enumerate(operators(program))})
    run = schedule(found, found.regions)
    assert "region_" not in str(run.__doc__)
    assert len(found.regions) > 3
    inputs = tiny_inputs(9)
    assert bitwise(program.run(inputs), run(*inputs))


def test_an_operator_without_a_backend_is_an_error() -> None:
    program = chain()
    with pytest.raises(recfx.TargetError, match="the assignment has no backend") as caught:
        split(program, {})
    assert "linear" in str(caught.value)


def test_a_program_without_operators_runs_on_the_default() -> None:
    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    program = capture(Same().eval(), (torch.randn(4, 3),))
    for node in operators(program):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        program.graph.erase_node(node)
    found = split(program, {}, "third")
    assert found.backends == ("third",)
    assert found.regions[0].outputs == found.regions[0].inputs


@pytest.mark.parametrize("batch", [1, 5])
def test_state_and_numbers_that_a_program_returns(batch: int) -> None:
    class Returns(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = torch.nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> Any:
            y = x * 2
            return y, self.held, (y + self.held).relu(), x.shape[0]

    program = capture(Returns().eval(), (torch.randn(4, 3),))
    nodes = operators(program)
    found = split(program, {node: NAMES[i % 2] for i, node in enumerate(nodes)})
    x = torch.randn(batch, 3)
    expected, got = program.run([x]), schedule(found, plain(found))(x)
    assert len(expected) == len(got)
    for want, have in zip(expected, got, strict=True):
        assert torch.equal(want, have) if isinstance(want, torch.Tensor) else want == have


def test_a_clone_has_a_graph_of_its_own() -> None:
    region = Region.whole(chain())
    copy, before = region.clone(), len(region.graph.nodes)
    output = next(iter(reversed(copy.graph.nodes)))
    with copy.graph.inserting_before(output):
        copy.graph.call_function(torch.ops.aten.relu.default, (output.args[0][0],))
    assert len(copy.graph.nodes) == before + 1
    assert len(region.graph.nodes) == before
