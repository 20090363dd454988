"""fuse-cross on graphs that nearly match its patterns: dtypes, free widths, weights of few bits, sums that belong to no
cross layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pass_cases import operators, run
from torch import fx

from recfx.ir import Exactness, Program, verify_meta, verify_numeric
from recfx.ops import cross
from recfx.testing import GraphBuilder

aten = torch.ops.aten
D = 4


def drawn(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def check(program: Program, after: dict[str, int], reason: str | None = None) -> Program:
    """The pass preserves the results, leaves these operators, and gives the expected reason, if any, for a miss."""
    result = run("fuse-cross", program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    assert operators(result.program) == after, str(result.program)
    if reason is not None:
        assert any(reason in miss.reason for miss in result.records[0].misses), result.records[0].misses
    return result.program


class Graph(GraphBuilder):
    """Cross layers and the operators around them."""

    def __init__(self, inputs: dict[str, Any] | None = None) -> None:
        super().__init__(inputs or {"x": ("batch", D)})
        self.x = self.inputs["x"]

    def add(self, a: Any, b: Any, **options: Any) -> fx.Node:
        return self.call(aten.add.Tensor, a, b, **options)

    def mul(self, a: Any, b: Any) -> fx.Node:
        return self.call(aten.mul.Tensor, a, b)

    def stack(self, x: fx.Node, *params: fx.Node, x0: fx.Node | None = None, **layer: int) -> fx.Node:
        kind = layer.pop("kind", cross.FULL)
        layers = cross.encode([cross.CrossLayer(kind, 0, **layer)])
        return self.call(cross.cross, self.x if x0 is None else x0, x, list(params), layers)

    def weight(self, name: str = "W", *sizes: int) -> fx.Node:
        return self.state(name, drawn(*(sizes or (D, D)), seed=len(name)))


def test_rows_of_another_dtype_are_no_cross_layer() -> None:
    """A product that is summed can have a float32 weight and float64 rows, but the operator accepts one dtype."""
    g = Graph({"x": (("batch", D), torch.float64)})
    product = g.call(aten.sum.dim_IntList, g.mul(g.x, g.weight("w", D)), [1], True)
    program = g.build(g.add(g.mul(g.x, product), g.x))
    assert operators(run("fuse-cross", program).program) == operators(program)


def test_a_free_width_stays_free() -> None:
    g = Graph({"x": ("batch", "width")})
    program = g.build(g.add(g.mul(g.x, g.call(aten.relu.default, g.x)), g.x))
    result = run("fuse-cross", program).program
    verify_meta(result)
    for width in (3, 7):
        x = drawn(2, width)
        torch.testing.assert_close(result(x), x * x.relu() + x)


@pytest.mark.parametrize("low_rank", [False, True])
def test_layers_of_few_bits_take_no_bias(low_rank: bool) -> None:
    g = Graph()
    late = g.add(g.stack(g.x, g.weight()), g.weight("c", D))
    codes = torch.randint(-127, 128, (D, D), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    quantised, scale = g.state("q", codes), g.state("s", torch.full((D,), 0.01))
    if low_rank:
        last = g.stack(late, g.weight("U"), quantised, scale, kind=cross.LOW_RANK, inner=1, inner_scale=2)
    else:
        last = g.stack(late, quantised, scale, scale=1)
    check(g.build(last), {"recfx.cross": 2, "aten.add.Tensor": 1}, "quantised already")


def test_a_vector_layer_takes_no_bias_inside() -> None:
    g = Graph()
    late = g.add(g.stack(g.x, g.weight()), g.weight("c", D))
    last = g.stack(late, g.weight("v", D), kind=cross.VECTOR)
    check(g.build(last), {"recfx.cross": 2, "aten.add.Tensor": 1}, "a vector layer has no bias inside its product")


@pytest.mark.parametrize("same", [True, False])
def test_a_bias_moves_behind_layers_of_the_same_x0_only(same: bool) -> None:
    g = Graph()
    late = g.add(g.stack(g.x, g.weight()), g.weight("c", D))
    last = g.stack(late, g.weight("V"), x0=None if same else g.call(aten.neg.default, g.x))
    after = (
        {"recfx.cross": 1, "aten.add.Tensor": 1} if same else {"recfx.cross": 2, "aten.add.Tensor": 1, "aten.neg": 1}
    )
    check(g.build(last), after)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(D,), (1, D)])
def test_constants_behind_a_stack_are_added_once(turned: bool, shape: tuple[int, ...]) -> None:
    g = Graph()
    first, second = g.state("c", drawn(*shape)), g.state("d", drawn(*shape, seed=1))
    late = g.stack(g.x, g.weight())
    for constant in (first, second):
        late = g.add(constant, late) if turned else g.add(late, constant)
    check(g.build(late), {"recfx.cross": 1, "aten.add.Tensor": 1})


def test_sums_that_are_no_constants_behind_a_stack_stay() -> None:
    def program(case: str) -> Program:
        g = Graph()
        c, d = g.weight("c", D), g.weight("dd", D)
        stack = g.stack(g.x, g.weight())
        if case == "no stack":
            return g.build(g.add(g.add(g.call(aten.relu.default, g.x), c), d))
        if case == "read elsewhere":
            late = g.add(stack, c)
            return g.build(g.add(late, d), g.call(aten.relu.default, late))
        if case == "scaled first":
            return g.build(g.add(g.add(stack, c, alpha=2), d))
        if case == "scaled last":
            return g.build(g.add(g.add(stack, c), d, alpha=2))
        if case == "one number":
            return g.build(g.add(g.add(stack, c), g.weight("e", 1)))
        if case == "a column":
            return g.build(g.add(g.add(stack, g.weight("e", 1, 1)), d))
        half = [g.state(name, drawn(D, seed=at).half()) for at, name in enumerate(("h", "k"))]
        return g.build(g.add(g.add(stack, half[0]), half[1]))

    for case in ("no stack", "read elsewhere", "scaled first", "scaled last", "one number", "a column", "half"):
        made = program(case)
        check(made, dict(operators(made)))


@pytest.mark.parametrize("target", ["add", "sub"])
@pytest.mark.parametrize("alpha", [2, -1])
@pytest.mark.parametrize("place", ["outer", "inner", "bias", "product"])
def test_sums_scaled_by_alpha_are_no_cross_layer(place: str, alpha: int, target: str) -> None:
    g = Graph()
    scaled = getattr(aten, target).Tensor
    mapped = g.call(aten.linear.default, g.x, g.weight())
    bias = g.weight("b", D)
    if place == "bias":
        made = g.add(g.mul(g.x, g.call(scaled, mapped, bias, alpha=alpha)), g.x)
    elif place == "inner":
        made = g.add(g.call(scaled, g.mul(g.x, mapped), bias, alpha=alpha), g.x)
    elif place == "product":
        made = g.call(scaled, g.x, g.mul(g.x, mapped), alpha=alpha)
    else:
        made = g.call(scaled, g.add(g.mul(g.x, mapped), bias), g.x, alpha=alpha)
    program = g.build(made)
    check(program, dict(operators(program)))


@pytest.mark.parametrize("dim", [1, -2])
def test_rows_as_matrices_of_one_row(dim: int) -> None:
    g = Graph()
    column, row = g.call(aten.unsqueeze.default, g.x, 2), g.call(aten.unsqueeze.default, g.x, dim)
    outer = g.call(aten.matmul.default, column, row)
    flat = g.call(aten.squeeze.dim, g.call(aten.matmul.default, outer, g.weight("w", D, 1)), 2)
    check(g.build(g.add(flat, g.x)), {"recfx.cross": 1})


@pytest.mark.parametrize("other", ["x0", "x"])
def test_the_rows_of_a_low_rank_layer_are_those_it_adds(other: str) -> None:
    g = Graph({"x": ("batch", D), "y": ("batch", D)})
    y = g.inputs["y"]
    inner = g.call(aten.linear.default, y if other == "x" else g.x, g.weight("V", 2, D))
    mapped = g.call(aten.linear.default, inner, g.weight("UU", D, 2))
    program = g.build(g.add(g.mul(y if other == "x0" else g.x, mapped), g.x))
    if other == "x0":
        (layer,) = [n for n in check(program, {"recfx.cross": 1}).graph.nodes if n.target is cross.cross]
        assert [n.name for n in layer.args[:2]] == ["y", "x"]  # type: ignore[union-attr]
    else:
        check(program, dict(operators(program)))


def test_layers_of_different_rows_are_not_merged() -> None:
    g = Graph({"x": ("batch", D), "y": ("batch", D)})
    first = g.stack(g.x, g.weight())
    program = g.build(g.stack(first, g.weight("V"), x0=g.inputs["y"]))
    check(program, {"recfx.cross": 2}, "the layers before multiply with another tensor")


def test_merged_layers_share_tied_weights_and_keep_the_others_apart() -> None:
    g = Graph()
    bias = g.weight("b", D)
    first = g.stack(g.x, g.weight(), bias, bias=1)
    second = g.stack(first, g.weight("V"), bias, bias=1)
    third = g.stack(second, g.weight("U", D, 2), g.weight("VV", 2, D), kind=cross.LOW_RANK, inner=1)
    result = check(g.build(third), {"recfx.cross": 1})
    (layer,) = [n for n in result.graph.nodes if n.target is cross.cross]
    assert [str(n.target) for n in layer.args[2]] == ["W", "b", "V", "U", "VV"]  # type: ignore[union-attr]
    assert cross.decode(layer.args[3]) == [  # type: ignore[arg-type]
        cross.CrossLayer(cross.FULL, 0, bias=1),
        cross.CrossLayer(cross.FULL, 2, bias=1),
        cross.CrossLayer(cross.LOW_RANK, 3, inner=4),
    ]
