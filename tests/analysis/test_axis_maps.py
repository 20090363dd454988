"""The table of axes against the operators: exchanging positions of the operands must exchange positions of the
result."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from axis_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from recfx.analysis import axis_maps
from recfx.analysis.axis_maps import MIXED, WHOLE, Along, axis_of, reshaped_axis
from recfx.ir import op_sets

aten = torch.ops.aten


def made(argument: Any, graph: fx.Graph, operands: list[fx.Node]) -> Any:
    """An argument with placeholders for its tensors."""
    if isinstance(argument, list):
        return [made(item, graph, operands) for item in argument]
    if not isinstance(argument, tuple):
        return argument
    kind, *shape = argument
    generator = torch.Generator().manual_seed(len(operands))
    node = graph.placeholder(f"x{len(operands)}")
    held = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "ids":
        held = torch.randint(0, 9, shape, generator=generator)
    elif kind == "bool":
        held = held > 0
    elif kind == "bool+":
        held = held > 0
        held[..., 0] = True
    elif kind == "positive":
        held = held.abs() + 0.5
    node.meta["val"] = held
    operands.append(node)
    return node


def built(name: str) -> tuple[fx.Node, list[fx.Node]]:
    target, arguments, _ = CASES[name]
    graph, operands = fx.Graph(), []  # type: ignore[var-annotated]
    args = [made(argument, graph, operands) for argument in arguments]
    node = graph.call_function(target, tuple(args))
    node.meta["val"] = run(node, {n: n.meta["val"] for n in operands})
    return node, operands


def run(node: fx.Node, held: dict[fx.Node, Tensor]) -> Any:
    return node.target(*fx.map_arg(node.args, held.__getitem__))  # type: ignore[operator]


def letters(node: fx.Node, operand: fx.Node, rank: int) -> str:
    found = [axis_of(node, operand, axis) for axis in range(rank)]
    return "".join(str(f.axis) if isinstance(f, Along) else {WHOLE: "*", MIXED: "!"}[f] for f in found)  # type: ignore[index]


def first(held: Any) -> Tensor:
    return held[0] if isinstance(held, tuple | list) else held  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CASES)
def test_the_axes_of_each_operand(name: str) -> None:
    node, operands = built(name)
    rank = first(node.meta["val"]).ndim
    assert [letters(node, operand, rank) for operand in operands] == CASES[name][2]


@pytest.mark.parametrize("name", CASES)
def test_exchanged_places_of_the_operands_exchange_those_of_the_result(name: str) -> None:
    node, operands = built(name)
    wanted = first(node.meta["val"])
    for axis in range(wanted.ndim):
        found = {n: axis_of(node, n, axis) for n in operands}
        if MIXED in found.values():
            continue
        sizes = [n.meta["val"].shape[f.axis] for n, f in found.items() if isinstance(f, Along)]
        blocks = torch.roll(torch.arange(min([wanted.shape[axis], *sizes])), 1)  # a reshape joins or divides places
        held = {
            n: exchanged(n.meta["val"], f.axis, blocks) if isinstance(f, Along) else n.meta["val"]
            for n, f in found.items()
        }
        got = first(run(node, held))
        assert torch.allclose(got.double(), exchanged(wanted, axis, blocks).double()), (name, axis)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_axes_of_reshapes(data: st.DataObject) -> None:
    """A reshaped tensor: exchanging blocks of the operand's axis exchanges blocks of the result's axis."""
    before = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    count = int(torch.tensor(before).prod())
    after: list[int] = []
    while count > 1 and len(after) < 4:
        after.append(data.draw(st.sampled_from([d for d in range(1, count + 1) if count % d == 0])))
        count //= after[-1]
    after.append(count)
    source = torch.arange(float(torch.tensor(before).prod())).reshape(before)
    for axis, size in enumerate(after):
        found = reshaped_axis(before, after, axis)
        if not isinstance(found, Along):
            assert found is MIXED or size == 1
            continue
        own = before[found.axis]
        assert found.ratio == Fraction(own, size)
        if max(own, size) % min(own, size):
            continue  # neither consists of whole blocks of the other
        blocks = torch.roll(torch.arange(min(own, size)), 1)
        held = exchanged(source, found.axis, blocks)
        assert torch.equal(held.reshape(after), exchanged(source.reshape(after), axis, blocks))


def exchanged(held: Tensor, axis: int, blocks: Tensor) -> Tensor:
    """A tensor with its blocks along an axis in another order."""
    return held.index_select(axis, spread(blocks, held.shape[axis]))


def spread(blocks: Tensor, size: int) -> Tensor:
    """The order of single positions for an order of blocks."""
    length = size // len(blocks)
    return (blocks.unsqueeze(1) * length + torch.arange(length)).flatten()


def test_operands_in_several_places_must_agree() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(3, 3)
    product = graph.call_function(aten.mm.default, (x, x))
    total = graph.call_function(aten.add.Tensor, (x, x))
    for node in (product, total):
        node.meta["val"] = torch.zeros(3, 3)
    assert axis_of(product, x, 0) is MIXED
    assert axis_of(total, x, 0) == Along(0)


def test_unknown_operators_have_no_axes() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.eye(3)
    node = graph.call_function(aten.linalg_inv.default, (x,))
    node.meta["val"] = torch.eye(3)
    assert axis_of(node, x, 0) is None


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {str(target) for target in axis_maps._RULES} <= {str(target) for target, _, _ in CASES.values()}


def test_sets_of_operators_are_in_the_table() -> None:
    known = axis_maps._RULES.keys()
    for members in (op_sets.REGROUPINGS, op_sets.PERMUTATIONS, op_sets.EXPANSIONS, op_sets.SPLITS, op_sets.JOINS):
        assert set(members) <= known
    assert set(op_sets.CASTS) | set(op_sets.COPIES) | set(op_sets.DROPOUTS) | set(op_sets.MASKED_FILLS) <= known
