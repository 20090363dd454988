"""The table of axes against the operators: exchanging positions of the operands must exchange positions of the
result."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from recfx.analysis import axis_maps
from recfx.analysis.axis_maps import MIXED, WHOLE, Along, axis_of, reshaped_axis
from recfx.ir import op_sets

aten = torch.ops.aten
T = tuple[int, ...]


def t(*shape: int) -> T:
    """A tensor among the arguments, by its shape."""
    return ("t", *shape)  # type: ignore[return-value]


def ids(*shape: int) -> T:
    return ("ids", *shape)  # type: ignore[return-value]


#: Operator, arguments, and the axes of each operand for each axis of the result: one letter per axis, `*` for WHOLE,
#: `!` for MIXED.
CASES: dict[str, tuple[Any, tuple[Any, ...], list[str]]] = {
    "add": (aten.add.Tensor, (t(2, 3, 4), t(3, 4)), ["012", "*01"]),
    "add, broadcast": (aten.add.Tensor, (t(2, 3, 4), t(2, 1, 4)), ["012", "0*2"]),
    "where": (aten.where.self, (("bool", 3, 1), t(2, 3, 4), t(4)), ["*0*", "012", "**0"]),
    "where of two numbers": (aten.where.Scalar, (("bool", 2, 3), 1.0, 0.5), ["01"]),
    "where of a number otherwise": (aten.where.ScalarOther, (("bool", 3, 1), t(2, 3, 4), 0.5), ["*0*", "012"]),
    "where of a number": (aten.where.ScalarSelf, (("bool", 2, 3), 0.5, t(3)), ["01", "*0"]),
    "masked_fill": (aten.masked_fill.Scalar, (t(2, 3), ("bool", 2, 3), 0.5), ["01", "01"]),
    "relu": (aten.relu.default, (t(2, 3),), ["01"]),
    "to": (aten.to.dtype, (t(2, 3), torch.float64), ["01"]),
    "view in another dtype": (aten.view.dtype, (t(2, 3, 4), torch.int32), ["01!"]),
    "view in a wider dtype": (aten.view.dtype, (t(2, 3, 4), torch.int64), ["01!"]),
    "expand": (aten.expand.default, (t(3, 1), [2, 3, 4]), ["*0*"]),
    "expand_as": (aten.expand_as.default, (t(3, 1), t(2, 3, 4)), ["*0*", "012"]),
    "repeat": (aten.repeat.default, (t(3, 1), [2, 1, 4]), ["*0*"]),
    "repeat of an axis": (aten.repeat.default, (t(3, 4), [2, 1]), ["!1"]),
    "unsqueeze": (aten.unsqueeze.default, (t(2, 3), 1), ["0*1"]),
    "unsqueeze at the end": (aten.unsqueeze.default, (t(2, 3), -1), ["01*"]),
    "squeeze": (aten.squeeze.default, (t(2, 1, 3, 1),), ["02"]),
    "squeeze of one": (aten.squeeze.dim, (t(2, 1, 3, 1), 1), ["023"]),
    "squeeze of nothing": (aten.squeeze.dim, (t(2, 1, 3), 0), ["012"]),
    "squeeze of two": (aten.squeeze.dims, (t(2, 1, 3, 1), [1, -1]), ["02"]),
    "permute": (aten.permute.default, (t(2, 3, 4), [2, 0, -2]), ["201"]),
    "transpose": (aten.transpose.int, (t(2, 3, 4), 0, -1), ["210"]),
    "swapaxes": (aten.swapaxes.default, (t(2, 3, 4), 0, 1), ["102"]),
    "swapdims": (aten.swapdims.default, (t(2, 3, 4), 1, 2), ["021"]),
    "t": (aten.t.default, (t(2, 3),), ["10"]),
    "t of a vector": (aten.t.default, (t(3),), ["0"]),
    "mT": (aten.mT.default, (t(2, 3, 4),), ["021"]),
    "numpy_T": (aten.numpy_T.default, (t(2, 3, 4),), ["210"]),
    "movedim": (aten.movedim.int, (t(2, 3, 4), 0, 2), ["120"]),
    "mH": (aten.mH.default, (t(2, 3, 4),), ["021"]),
    "moveaxis": (aten.moveaxis.int, (t(2, 3, 4), -1, 0), ["201"]),
    "movedim of several": (aten.movedim.intlist, (t(2, 3, 4, 5), [0, 3], [2, 0]), ["3102"]),
    "sum": (aten.sum.dim_IntList, (t(2, 3, 4), [1]), ["02"]),
    "sum, kept": (aten.sum.dim_IntList, (t(2, 3, 4), [-1], True), ["01!"]),
    "sum of two": (aten.sum.dim_IntList, (t(2, 3, 4), [0, 2]), ["1"]),
    "mean": (aten.mean.dim, (t(2, 3, 4), [0]), ["12"]),
    "amax": (aten.amax.default, (t(2, 3, 4), [2]), ["01"]),
    "max": (aten.max.dim, (t(2, 3, 4), 1), ["02"]),
    "var": (aten.var.correction, (t(2, 3, 4), [1]), ["02"]),
    "norm": (aten.linalg_vector_norm.default, (t(2, 3, 4), 2, [1]), ["02"]),
    "softmax": (aten.softmax.int, (t(2, 3), 1), ["0!"]),
    "cumsum": (aten.cumsum.default, (t(2, 3), 0), ["!1"]),
    "flip": (aten.flip.default, (t(2, 3, 4), [1]), ["0!2"]),
    "roll": (aten.roll.default, (t(2, 3, 4), [1], [1]), ["0!2"]),
    "sort": (aten.sort.default, (t(2, 3),), ["0!"]),
    "topk": (aten.topk.default, (t(3, 4), 2), ["0!"]),
    "glu": (aten.glu.default, (t(2, 4),), ["0!"]),
    "select": (aten.select.int, (t(2, 3, 4), 1, 0), ["02"]),
    "slice": (aten.slice.Tensor, (t(2, 3, 4), 1, 1, 3), ["0!2"]),
    "narrow": (aten.narrow.default, (t(2, 3, 4), 0, 0, 2), ["!12"]),
    "unbind": (aten.unbind.int, (t(2, 3, 4), 1), ["02"]),
    "split": (aten.split.Tensor, (t(2, 4), 2, 1), ["0!"]),
    "chunk": (aten.chunk.default, (t(2, 4), 2, -1), ["0!"]),
    "tensor_split": (aten.tensor_split.indices, (t(2, 4), [1], 1), ["0!"]),
    "cat": (aten.cat.default, ([t(2, 3), t(2, 4)], 1), ["0!", "0!"]),
    "stack": (aten.stack.default, ([t(2, 3), t(2, 3)], 1), ["0!1", "0!1"]),
    "stack at the end": (aten.stack.default, ([t(2, 3), t(2, 3)], -1), ["01!", "01!"]),
    "layer_norm": (aten.layer_norm.default, (t(2, 3, 4), [4], t(4), t(4)), ["01!", "**0", "**0"]),
    "batch_norm": (
        aten.batch_norm.default,
        (t(2, 3), t(3), t(3), t(3), ("positive", 3), False, 0.1, 1e-5, False),
        ["01", *["*0"] * 4],
    ),
    "prelu": (aten.prelu.default, (t(2, 3, 4), t(3)), ["012", "*0*"]),
    "prelu of one": (aten.prelu.default, (t(2, 3, 4), t(1)), ["012", "***"]),
    "dropout": (aten.dropout.default, (t(2, 3), 0.5, False), ["01"]),
    "linear": (aten.linear.default, (t(2, 3, 4), t(5, 4), t(5)), ["01*", "**0", "**0"]),
    "mm": (aten.mm.default, (t(2, 3), t(3, 4)), ["0*", "*1"]),
    "bmm": (aten.bmm.default, (t(2, 3, 4), t(2, 4, 5)), ["01*", "0*2"]),
    "matmul": (aten.matmul.default, (t(6, 2, 3, 4), t(2, 4, 5)), ["012*", "*0*2"]),
    "matmul, broadcast": (aten.matmul.default, (t(3, 4), t(2, 4, 5)), ["*0*", "0*2"]),
    "matmul of a vector": (aten.matmul.default, (t(2, 3, 4), t(4)), ["01", "**"]),
    "vector times": (aten.matmul.default, (t(4), t(2, 4, 5)), ["**", "02"]),
    "addmm": (aten.addmm.default, (t(4), t(2, 3), t(3, 4)), ["*0", "0*", "*1"]),
    "baddbmm": (aten.baddbmm.default, (t(2, 1, 5), t(2, 3, 4), t(2, 4, 5)), ["0*2", "01*", "0*2"]),
    "attention": (
        aten.scaled_dot_product_attention.default,
        (t(2, 6, 3, 4), t(2, 6, 5, 4), t(2, 6, 5, 7), ("bool+", 3, 5)),
        ["012*", "01**", "01*3", "**0*"],
    ),
    "embedding": (aten.embedding.default, (t(9, 4), ids(2, 3)), ["**1", "01*"]),
    "one_hot": (aten.one_hot.default, (ids(2, 3), 9), ["01!"]),
    "gather": (aten.gather.default, (t(2, 9, 3), 1, ids(2, 4, 3)), ["0*2", "012"]),
    "index": (aten.index.Tensor, (t(2, 9, 3), [None, ids(5)]), ["0*2", "*0*"]),
    "index by two": (aten.index.Tensor, (t(9, 9, 3), [ids(5, 1), ids(4)]), ["**2", "0**", "*0*"]),
    "index by a mask": (aten.index.Tensor, (t(2, 3, 4, 5), [None, ("bool", 3, 4)]), ["0*3", "*!*"]),
    "index apart": (aten.index.Tensor, (t(9, 2, 9), [ids(5), None, ids(5)]), ["!!", "!!", "!!"]),
    "index_select": (aten.index_select.default, (t(2, 9, 3), 1, ids(5)), ["0*2", "*0*"]),
    "einsum": (aten.einsum.default, ("bhd,hde->bhe", [t(2, 3, 4), t(3, 4, 5)]), ["01*", "*02"]),
    "einsum of a diagonal": (aten.einsum.default, ("bb,bd->bd", [t(3, 3), t(3, 4)]), ["!*", "01"]),
    "zeros_like": (aten.zeros_like.default, (t(2, 3),), ["01"]),
}


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
        order = torch.roll(torch.arange(wanted.shape[axis]), 1)
        held = {
            n: n.meta["val"].index_select(f.axis, order) if isinstance(f, Along) else n.meta["val"]
            for n, f in found.items()
        }
        got = first(run(node, held))
        assert torch.allclose(got.double(), wanted.index_select(axis, order).double()), (name, axis)


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
        held = source.index_select(found.axis, spread(blocks, own))
        assert torch.equal(held.reshape(after), source.reshape(after).index_select(axis, spread(blocks, size)))


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


def test_sets_of_operators_are_in_the_table() -> None:
    known = axis_maps._RULES.keys()
    for members in (op_sets.REGROUPINGS, op_sets.PERMUTATIONS, op_sets.EXPANSIONS, op_sets.SPLITS, op_sets.JOINS):
        assert set(members) <= known
    assert set(op_sets.CASTS) | set(op_sets.COPIES) | set(op_sets.DROPOUTS) | set(op_sets.MASKED_FILLS) <= known
