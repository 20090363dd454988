"""Layers of interaction networks behind parts of their maps, and the parts of a linear's input."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from recfx.ops.cin import cin
from recfx.ops.descriptions import Layer
from recfx.ops.mlp import encode
from recfx.passes.interaction.linear_cin import Pooled, layer_behind, linear_cin, pooled_parts, readers
from recfx.pipeline import PassContext, PassSpec
from recfx.testing import GraphBuilder

aten = torch.ops.aten
B, FIELDS, MAPS, D = "batch", 4, 6, 5
Body = Callable[[GraphBuilder, fx.Node], fx.Node]


def builder() -> GraphBuilder:
    return GraphBuilder({"x0": (B, FIELDS, D), "f": (B, 2), "many": (B, "n", D), "numbers": ("n",)})


def layer(
    b: GraphBuilder, *, bias: Any = None, weight: Any = None, activation: str = "none", triangle: bool = False
) -> fx.Node:
    x0, columns = b.inputs["x0"], FIELDS * (FIELDS + 1) // 2 if triangle else FIELDS * FIELDS
    held = b.state("net.w", torch.arange(float(MAPS * columns)).reshape(MAPS, columns)) if weight is None else weight(b)
    params = [held] if bias is None else [held, bias(b)]
    ints, numbers = encode([Layer(0, -1 if bias is None else 1, activation=activation)])
    return b.call(cin, x0, x0, params, ints, numbers, triangle)


def part(split: Any, place: int) -> Body:
    return lambda b, maps: b.call(operator.getitem, split(b, maps), place)


def chunks(target: Any, *args: Any) -> Any:
    return lambda b, maps: b.call(target, maps, *args)


#: Name -> (the node, the first map and the one behind the last).
PARTS: dict[str, tuple[Body, tuple[int, int]]] = {
    "all": (lambda b, m: m, (0, 6)),
    "a slice": (lambda b, m: b.call(aten.slice.Tensor, m, 1, 1, 4), (1, 4)),
    "a slice, dimension from the end": (lambda b, m: b.call(aten.slice.Tensor, m, -2, 1, 4), (1, 4)),
    "a slice from the end": (lambda b, m: b.call(aten.slice.Tensor, m, 1, -4, -1), (2, 5)),
    "a slice to beyond the end": (lambda b, m: b.call(aten.slice.Tensor, m, 1, 2, 2**63 - 1), (2, 6)),
    "a slice without a start": (lambda b, m: b.call(aten.slice.Tensor, m, 1, None, 4), (0, 4)),
    "a slice with its step": (lambda b, m: b.call(aten.slice.Tensor, m, 1, 1, 4, 1), (1, 4)),
    "a slice of a slice": (
        lambda b, m: b.call(aten.slice.Tensor, b.call(aten.slice.Tensor, m, 1, 1, 6), 1, 2, 4), (3, 5)
    ),
    "the second part": (part(chunks(aten.split.Tensor, 4, 1), 1), (4, 6)),
    "the first part": (part(chunks(aten.split.Tensor, 4, -2), 0), (0, 4)),
    "a part of given size": (part(chunks(aten.split_with_sizes.default, [1, 2, 3], 1), 2), (3, 6)),
    "a part of a slice": (
        lambda b, m: part(chunks(aten.split.Tensor, 2, 1), 1)(b, b.call(aten.slice.Tensor, m, 1, 1, 5)), (3, 5)
    ),
}  # fmt: skip

#: Nodes that hold no consecutive maps of a layer.
OTHERS: dict[str, Body] = {
    "the fields": lambda b, m: b.inputs["x0"],
    "a matrix": lambda b, m: b.call(aten.sum.dim_IntList, m, [2]),
    "every other map": lambda b, m: b.call(aten.slice.Tensor, m, 1, 0, 6, 2),
    "columns": lambda b, m: b.call(aten.slice.Tensor, m, 2, 1, 4),
    "rows": lambda b, m: b.call(aten.slice.Tensor, m, 0, 1),
    "rows without a dimension": lambda b, m: b.call(aten.slice.Tensor, m),
    "a part of the columns": part(chunks(aten.split.Tensor, 2, 2), 1),
    "a part of the fields": lambda b, m: part(chunks(aten.split.Tensor, 2, 1), 1)(b, b.inputs["x0"]),
    "a slice of the fields": lambda b, m: b.call(aten.slice.Tensor, b.inputs["x0"], 1, 1, 3),
    "a slice of a vector": lambda b, m: b.call(aten.slice.Tensor, b.inputs["numbers"], 0, 1, 3),
    "a slice of a free number of vectors": lambda b, m: b.call(aten.slice.Tensor, b.inputs["many"], 1, 1, 3),
    "a free number of vectors": lambda b, m: b.call(aten.slice.Tensor, b.inputs["many"], 1, 1),
    "an activation": lambda b, m: b.call(aten.relu.default, m),
}


@pytest.mark.parametrize("name", PARTS)
def test_the_maps_of_a_part(name: str) -> None:
    body, (start, stop) = PARTS[name]
    b = builder()
    maps = layer(b)
    assert layer_behind(body(b, maps)) == (maps, start, stop)


@pytest.mark.parametrize("name", OTHERS)
def test_nodes_without_maps(name: str) -> None:
    b = builder()
    assert layer_behind(OTHERS[name](b, layer(b))) is None


def found(**options: Any) -> tuple[fx.Node, Any]:
    """A layer, and what is found behind a slice of it."""
    b = builder()
    node = layer(b, **options)
    read = b.call(aten.slice.Tensor, node, 1, 1, 3)
    return node, linear_cin(PassContext(b.build(read), PassSpec("look", "For a test.")), read)


def stored(dtype: torch.dtype = torch.float32, *shape: int) -> Callable[[GraphBuilder], fx.Node]:
    return lambda b: b.state("p", torch.arange(torch.tensor(shape).prod().item(), dtype=dtype).reshape(shape))


def computed(*shape: int) -> Callable[[GraphBuilder], fx.Node]:
    return lambda b: b.call(aten.relu.default, b.state("p", torch.ones(shape)))


def test_a_layer() -> None:
    node, linear = found()
    assert (linear.node, linear.x0, linear.x) == (node, node.args[0], node.args[1])
    assert torch.equal(linear.weight, torch.arange(96.0).reshape(MAPS, FIELDS, FIELDS))
    assert (linear.bias, linear.triangle, linear.name, linear.outputs) == (None, False, "net_w", MAPS)
    assert linear.bias64.dtype is torch.float64
    assert linear.bias64.tolist() == [0.0] * MAPS


def test_the_bias_of_a_layer() -> None:
    linear = found(bias=stored(torch.float32, MAPS))[1]
    assert torch.equal(linear.bias, torch.arange(6.0))
    assert torch.equal(linear.bias64, torch.arange(6.0, dtype=torch.float64))


def test_products_that_a_triangle_leaves_out_have_weights_of_zero() -> None:
    linear = found(triangle=True)[1]
    assert linear.triangle
    for row in range(MAPS):
        assert linear.weight[row].triu().eq(linear.weight[row]).all()
        assert linear.weight[row][torch.triu(torch.ones(FIELDS, FIELDS)) > 0].tolist() == list(
            range(10 * row, 10 * row + 10)
        )


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"weight": stored(torch.bfloat16, MAPS, FIELDS * FIELDS)},
        {"weight": computed(MAPS, FIELDS * FIELDS)},
        {"bias": computed(MAPS)},
    ],
)
def test_layers_of_other_forms(options: dict[str, Any]) -> None:
    assert found(**options)[1] is None


def test_readers_of_a_layer_read_all_maps_or_a_part() -> None:
    b = builder()
    maps = layer(b)
    halves = b.call(aten.split.Tensor, maps, 3, 1)
    columns = b.call(aten.split.Tensor, maps, 3, 2)
    first, second = (b.call(operator.getitem, halves, place) for place in (0, 1))
    expected = {
        b.call(aten.relu.default, maps),
        b.call(aten.relu.default, first),
        b.call(aten.sum.dim_IntList, b.call(aten.slice.Tensor, second, 1, 1), [2]),
        b.call(cin, b.inputs["x0"], maps, *_next(b)),
        columns,
    }
    b.call(operator.getitem, columns, 1)
    assert readers(maps) == expected


def _next(b: GraphBuilder) -> tuple[Any, ...]:
    ints, numbers = encode([Layer(0, -1)])
    return [b.state("next.w", torch.ones(2, MAPS * FIELDS))], ints, numbers, False


Join = Callable[[GraphBuilder, fx.Node, fx.Node], fx.Node]


def sums(b: GraphBuilder, maps: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
    return b.call(aten.sum.dim_IntList, maps, *args, **kwargs)


#: Name -> (the input of a linear; for each part, whether it is a tensor, whether it is a sum of maps, and its width).
INPUTS: dict[str, tuple[Join, list[tuple[bool, bool, int]]]] = {
    "a sum": (lambda b, m, f: sums(b, m, [2]), [(True, True, 6)]),
    "a sum, dimension from the end": (lambda b, m, f: sums(b, m, [-1]), [(True, True, 6)]),
    "features": (lambda b, m, f: f, [(True, False, 2)]),
    "joined": (lambda b, m, f: b.call(aten.cat.default, [sums(b, m, [2]), f], 1), [(True, True, 6), (True, False, 2)]),
    "joined behind": (
        lambda b, m, f: b.call(aten.cat.default, [f, sums(b, m, [2])], -1), [(True, False, 2), (True, True, 6)]
    ),
    "joined twice": (
        lambda b, m, f: b.call(aten.cat.default, [b.call(aten.cat.default, [f, f], 1), sums(b, m, [2])], 1),
        [(True, False, 2), (True, False, 2), (True, True, 6)],
    ),
    "maps joined": (
        lambda b, m, f: sums(b, b.call(aten.cat.default, [m, b.inputs["x0"]], 1), [2]),
        [(False, True, 6), (False, True, 4)],
    ),
    "maps joined, dimension from the end": (
        lambda b, m, f: sums(b, b.call(aten.cat.default, [m, b.inputs["x0"]], -2), [2]),
        [(False, True, 6), (False, True, 4)],
    ),
    "columns joined": (lambda b, m, f: sums(b, b.call(aten.cat.default, [m, m], 2), [2]), [(True, True, 6)]),
    "a sum of maps": (lambda b, m, f: sums(b, m, [1]), [(True, False, 5)]),
    "a sum of columns of a matrix": (lambda b, m, f: sums(b, sums(b, m, [2]), [1], True), [(True, False, 1)]),
    "in float64": (lambda b, m, f: sums(b, m, [2], dtype=torch.float64), [(True, False, 6)]),
    "rows joined": (lambda b, m, f: b.call(aten.cat.default, [f, f]), [(True, False, 2)]),
}  # fmt: skip


def parts_of(join: Join) -> list[Pooled] | None:
    b = builder()
    source = join(b, layer(b), b.inputs["f"])
    dtype = source.meta["val"].dtype
    width = source.meta["val"].shape[-1]
    return pooled_parts(b.call(aten.linear.default, source, b.state("head", torch.ones(1, width, dtype=dtype))))


@pytest.mark.parametrize("name", INPUTS)
def test_parts_of_an_input(name: str) -> None:
    join, expected = INPUTS[name]
    parts = parts_of(join)
    assert parts is not None
    assert [(part.node is not None, part.maps is not None, part.width) for part in parts] == expected
    assert all((part.reader is None) == (part.maps is None) for part in parts)


def test_a_tensor_with_other_readers_is_one_part() -> None:
    b = builder()
    both = b.call(aten.cat.default, [sums(b, layer(b), [2]), b.inputs["f"]], 1)
    linear = b.call(aten.linear.default, both, b.state("head", torch.ones(1, 8)))
    b.call(aten.relu.default, both)
    assert pooled_parts(linear) == [Pooled(both, None, None, 8)]


def test_a_part_as_a_tensor() -> None:
    """A part that exists only inside a sum of several is summed by itself."""
    b = builder()
    node, other = layer(b), b.inputs["x0"]
    joined = b.call(aten.cat.default, [node, other], 1)
    linear = b.call(aten.linear.default, sums(b, joined, [2]), b.state("head", torch.ones(1, 10)))
    ctx = PassContext(b.build(linear), PassSpec("look", "For a test."))
    parts = pooled_parts(linear)
    assert parts is not None
    with ctx.before(linear):
        made = [part.emit(ctx) for part in parts]
    assert [(one.target, one.args) for one in made] == [
        (aten.sum.dim_IntList, (node, [2])),
        (aten.sum.dim_IntList, (other, [2])),
    ]
    assert Pooled(linear, None, None, 1).emit(ctx) is linear


def test_inputs_of_other_ranks_have_no_parts() -> None:
    assert parts_of(lambda b, m, f: m) is None
