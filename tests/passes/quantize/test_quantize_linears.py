"""quantize-linears: the weights of MLP chains in fewer bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, operators, run
from torch import nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.errors import InputError
from recfx.formats.per_channel import MOST_COLUMNS
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ops import mlp
from recfx.passes import QuantizeLinears
from recfx.pipeline import Pipeline
from recfx.testing import GraphBuilder

X = (torch.randn(3, 8, generator=torch.Generator().manual_seed(0)),)
X3 = (torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1)),)
EVERY = QuantizeLinears(min_weights=1)
#: The allowed added error of an int8 layer: half a step of 127 in each row of the input and each channel of the weight,
#: and a margin.
SHARE = 0.03


def fused(case: Case) -> Program:
    """A case's program after the passes that write MLP chains."""
    torch.manual_seed(0)
    return Pipeline("canonicalize,fuse-mlp").run(capture(case.model(), case.inputs)).program


def layers_of(program: Program) -> list[list[tuple[mlp.Layer, torch.Tensor]]]:
    """The layers of each chain, with their weights."""
    state = program.state()
    chains = []
    for node in program.graph.nodes:
        if node.target is mlp.mlp:
            params: list[Any] = node.args[1]
            layers = mlp.decode(node.args[2], node.args[3])
            chains.append([(layer, state[str(params[layer.weight].target)]) for layer in layers])
    return chains


def dtypes(program: Program) -> list[torch.dtype]:
    return [weight.dtype for chain in layers_of(program) for _, weight in chain]


def stack(*middle: nn.Module, inputs: tuple[torch.Tensor, ...] = X, fired: int = 2) -> Case:
    return Case(lambda: nn.Sequential(nn.Linear(8, 12), *middle, nn.Linear(12, 6)).eval(), inputs, fired)


def body(function: Callable[..., Any], *, fired: int, inputs: tuple[torch.Tensor, ...] = X, **state: Any) -> Case:
    modules = {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8, bias=False), **state}
    return Case(lambda: Function(function, **modules), inputs, fired)


def check(item: QuantizeLinears, program: Program, fired: int) -> Program:
    """The pass fires as often as expected, does nothing in a second run, and its error is that of its codes, at every
    batch."""
    result = run(item, program)
    (record,) = result.records
    assert record.fired == fired, record.misses
    assert operators(result.program) == operators(program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.APPROX)
    again = run(item, result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None
    for batch in (1, 2, 7):
        leaves = [
            torch.randn(batch, *x.shape[1:], generator=torch.Generator().manual_seed(batch)) for x in program.example
        ]
        for want, got in zip(program.run(leaves), result.program.run(leaves), strict=True):
            assert float((got - want).norm()) <= SHARE * fired * float(want.norm())
    return result.program


CASES = {
    "one linear": Case(lambda: nn.Linear(8, 6).eval(), X, 1),
    "relu": stack(nn.ReLU()),
    "norm and tanh": stack(nn.LayerNorm(12), nn.Tanh()),
    "prelu": stack(nn.PReLU(12, init=0.3)),
    "3-D": stack(nn.GELU(), inputs=X3),
    "without bias": body(lambda m, x: m.b(torch.relu(m.b(x))), fired=1),
    "tied weights": body(lambda m, x: m.a(torch.relu(m.a(x))), fired=1),
    "residual": body(lambda m, x: x + m.b(torch.relu(m.a(x))), fired=2),
    "a weight of two chains": body(lambda m, x: (m.a(x).exp(), m.a(x.sin())), fired=1),
    "mm": body(lambda m, x: torch.relu(x.mm(m.w)), fired=1, w=nn.Parameter(torch.randn(8, 8))),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("clip", [False, True])
def test_int8(name: str, clip: bool) -> None:
    after = check(dataclasses.replace(EVERY, clip=clip), fused(CASES[name]), CASES[name].fired)
    assert set(dtypes(after)) == {torch.int8}
    assert all(layer.scale >= 0 for chain in layers_of(after) for layer, _ in chain)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16(name: str) -> None:
    program = fused(CASES[name])
    after = check(dataclasses.replace(EVERY, bits=16), program, CASES[name].fired)
    assert set(dtypes(after)) == {torch.bfloat16}
    assert all(layer.scale < 0 for chain in layers_of(after) for layer, _ in chain)


def test_tied_weights_stay_one_parameter() -> None:
    after = check(EVERY, fused(CASES["tied weights"]), 1)
    ((first, second),) = layers_of(after)
    assert first[0].weight == second[0].weight
    assert first[0].scale == second[0].scale
    assert set(after.state()) == {"a_weight_8bit", "a_weight_8bit_scale", "a.bias"}


def test_a_weight_of_two_chains_is_stored_once() -> None:
    after = check(EVERY, fused(CASES["a weight of two chains"]), 1)
    (((_, first),), ((_, second),)) = layers_of(after)
    assert first is second


def test_a_weight_under_two_names_is_stored_once() -> None:
    weight = torch.randn(6, 8)
    b = GraphBuilder({"x": ("batch", 8)})
    ints, numbers = mlp.encode([mlp.Layer(0)])
    first = b.call(mlp.mlp, b.inputs["x"], [b.state("v", weight)], ints, numbers)
    program = b.build(first, b.call(mlp.mlp, b.inputs["x"], [b.state("w", weight)], ints, numbers))
    after = check(EVERY, program, 1)
    assert len(after.state()) == 2


def test_what_a_layer_has_besides_its_weight_is_kept() -> None:
    """A calibrated scale of the input, a residual, a slope."""
    b = GraphBuilder({"x": ("batch", 8)})
    params = [b.state("w", torch.randn(8, 8)), b.state("b", torch.randn(8)), b.state("s", torch.rand(8))]
    layers = [mlp.Layer(0, 1, activation="prelu", slope=2, residual=0, input_scale=0.05), mlp.Layer(0, 1, number=0.25)]
    node = b.call(mlp.mlp, b.inputs["x"], params, *mlp.encode(layers))
    program = b.build(node)
    after = run(EVERY, program).program
    ((first, second),) = [[layer for layer, _ in chain] for chain in layers_of(after)]
    unlike = {"weight": 0, "scale": -1, "bias": 1, "slope": 2}
    assert dataclasses.replace(first, **unlike) == layers[0]
    assert dataclasses.replace(second, **{**unlike, "slope": -1}) == layers[1]
    node = next(n for n in after.graph.nodes if n.target is mlp.mlp)
    reads = [str(p.target) for p in node.args[1]]
    assert reads[first.bias] == "b"
    assert reads[first.slope] == "s"


def test_small_layers_and_the_last_one_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)
    )
    program = fused(Case(lambda: model.eval(), X))
    assert dtypes(run("quantize-linears", program).program) == [torch.int8, torch.int8, torch.float32, torch.float32]
    wide = nn.Sequential(nn.Linear(8, 8192), nn.ReLU(), nn.Linear(8192, 1))
    program = fused(Case(lambda: wide.eval(), X))
    assert dtypes(run("quantize-linears", program).program) == [torch.int8, torch.float32]
    assert dtypes(run("quantize-linears{min_outputs=1}", program).program) == [torch.int8, torch.int8]


def with_weight(value: float, bits: int = 8) -> tuple[Case, QuantizeLinears]:
    def model() -> nn.Module:
        made = nn.Linear(8, 6)
        made.weight.data[2, 3] = value
        return made.eval()

    return Case(model, X), dataclasses.replace(EVERY, bits=bits)


LEAVES_ALONE: dict[str, tuple[tuple[Case, QuantizeLinears], str]] = {
    "few weights": ((Case(lambda: nn.Linear(8, 6).eval(), X), QuantizeLinears()), "only 48 weights"),
    "one output": ((Case(lambda: nn.Linear(8, 1).eval(), X), EVERY), "only 1 output(s)"),
    "a NaN": (with_weight(float("nan")), "NaN"),
    "an infinity": (with_weight(float("inf")), "NaN"),
    "a NaN in bfloat16": (with_weight(float("nan"), 16), "NaN"),
    "more columns than int32 sums allow": (
        (Case(lambda: nn.Linear(MOST_COLUMNS + 1, 2).eval(), (torch.randn(2, MOST_COLUMNS + 1),)), EVERY),
        "int32 sums",
    ),
    "beyond bfloat16": (with_weight(3.4e38, 16), "beyond bfloat16"),
}


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    (case, item), reason = LEAVES_ALONE[name]
    program = fused(case)
    result = run(item, program)
    assert result.records[0].fired == 0
    assert same_graph(program, result.program) is None
    assert any(reason in miss.reason for miss in result.records[0].misses), result.records[0].misses


@pytest.mark.parametrize(
    "function", [lambda m, x: m.a(x), lambda m, x: x @ m.b.weight, lambda m, x: torch.addmm(m.a.bias, x, m.b.weight)]
)
def test_a_linear_that_was_not_fused_is_named(function: Callable[..., Any]) -> None:
    program = Pipeline("canonicalize").run(capture(body(function, fired=0).model(), X)).program
    (record,) = run("quantize-linears", program).records
    assert record.fired == 0
    assert any("run fuse-mlp before" in miss.reason for miss in record.misses)


def test_a_product_of_two_values_is_no_linear() -> None:
    program = Pipeline("canonicalize").run(capture(Function(lambda m, x: x.T @ x), X)).program
    assert run("quantize-linears", program).records[0].misses == ()


def test_layers_of_other_widths_already_are_left_alone() -> None:
    program = run(dataclasses.replace(EVERY, bits=16), fused(CASES["relu"])).program
    (record,) = run(EVERY, program).records
    assert record.fired == 0
    assert all("bfloat16 already" in miss.reason for miss in record.misses)


def test_bad_options() -> None:
    with pytest.raises(InputError, match="cannot have bits="):
        QuantizeLinears(bits=4)


def test_options_survive_as_text() -> None:
    item = QuantizeLinears(bits=16, min_weights=7, min_outputs=1, clip=True)
    assert Pipeline(str(Pipeline([item]))).passes == (item,)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    widths=st.lists(st.integers(2, 24), min_size=2, max_size=4),
    bits=st.sampled_from([16, 8]),
    activation=st.sampled_from(["none", "relu", "tanh"]),
    bias=st.booleans(),
)
def test_any_chain_computes_what_its_weights_stand_for(
    seed: int, widths: list[int], bits: int, activation: str, bias: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    b = GraphBuilder({"x": ("batch", widths[0])})
    params: list[Any] = []
    layers: list[mlp.Layer] = []
    for i, (k, n) in enumerate(pairwise(widths)):
        params.append(b.state(f"w{i}", torch.randn(n, k, generator=rng)))
        params.append(b.state(f"b{i}", torch.randn(n, generator=rng)))
        layers.append(mlp.Layer(2 * i, 2 * i + 1 if bias else -1, activation=activation))
    program = b.build(b.call(mlp.mlp, b.inputs["x"], params, *mlp.encode(layers)), seed=seed % 1000)
    after = run(dataclasses.replace(EVERY, bits=bits), program).program
    x = program.example[0]
    state = after.state()
    for i, layer in enumerate(layers):
        weight = state[f"w{i}_{bits}bit"]
        if bits == 16:
            y = F.linear(x.bfloat16().float(), weight.float())
        else:
            codes, scale = mlp.quantize_rows(x)
            y = F.linear(codes.float() * scale, weight.float() * state[f"w{i}_8bit_scale"][:, None])
        y = y + program.state()[f"b{i}"] if bias else y
        x = mlp.activate(y, layer, [])
    torch.testing.assert_close(after.run(program.example)[0], x, rtol=1e-2, atol=2e-2 * float(x.abs().max()))
