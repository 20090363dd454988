"""Factors of a layer's input that go into the layer before it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir import Program, verify_meta
from recfx.ops import mlp
from recfx.passes.quantize.fold_factors import fold_factors
from recfx.pipeline import PassContext, PassSpec
from recfx.testing import GraphBuilder

WIDTH = 8
#: Positions of the parameters of `program_of`.
CODES, SCALE, BIAS, FACTOR, FLOATS, GAIN, SHIFT, SLOPE = range(8)

FIRST = mlp.Layer(CODES, BIAS, SCALE, "relu")
SECOND = mlp.Layer(CODES, BIAS, SCALE, factor=FACTOR)
THIRD = mlp.Layer(CODES, BIAS, SCALE, "relu")


def program_of(layers: list[mlp.Layer], seed: int = 0) -> Program:
    rng = torch.Generator().manual_seed(seed)

    def rand() -> torch.Tensor:
        return torch.rand(WIDTH, generator=rng) + 0.5

    b = GraphBuilder({"x": ("batch", WIDTH)})
    codes = torch.randint(-127, 128, (WIDTH, WIDTH), generator=rng).to(torch.int8)
    factor = torch.exp2(-torch.randint(0, 9, (WIDTH,), generator=rng).float())
    held = [codes, rand() / 127, rand(), factor, torch.randn(WIDTH, WIDTH, generator=rng), rand(), rand(), rand()]
    params = [b.state(f"p{i}", tensor) for i, tensor in enumerate(held)]
    return b.build(b.call(mlp.mlp, b.inputs["x"], params, *mlp.encode(layers)))


def folded(program: Program) -> tuple[Program, list[mlp.Layer]]:
    made = program.clone()
    ctx = PassContext(made, PassSpec("test", "A test.", changes_state=True))
    node = next(node for node in made.graph.nodes if node.target is mlp.mlp)
    fold_factors(ctx, node)
    ctx.sweep()
    arguments: Any = node.args
    return made, mlp.decode(arguments[2], arguments[3])


NORM = {"norm": True, "norm_weight": GAIN, "norm_bias": SHIFT}

FIRES: dict[str, list[mlp.Layer]] = {
    "relu": [FIRST, SECOND],
    "no activation": [dataclasses.replace(FIRST, activation="none"), SECOND],
    "leaky relu": [dataclasses.replace(FIRST, activation="leaky-relu", number=0.1), SECOND],
    "prelu": [dataclasses.replace(FIRST, activation="prelu", slope=SLOPE), SECOND],
    "without bias": [dataclasses.replace(FIRST, bias=-1), SECOND],
    "a norm of an int8 layer": [dataclasses.replace(FIRST, **NORM), SECOND],
    "a norm of a float32 layer": [dataclasses.replace(FIRST, **NORM, weight=FLOATS, scale=-1), SECOND],
    "a norm without bias": [dataclasses.replace(FIRST, norm=True, norm_weight=GAIN), SECOND],
    "the second of three": [THIRD, FIRST, SECOND],
    "a residual elsewhere": [FIRST, SECOND, dataclasses.replace(THIRD, residual=0)],
}


@pytest.mark.parametrize("name", FIRES)
@pytest.mark.parametrize("batch", [1, 5])
def test_folds(name: str, batch: int) -> None:
    program = program_of(FIRES[name])
    made, layers = folded(program)
    verify_meta(made)
    assert all(layer.factor < 0 for layer in layers)
    x = torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made.run([x])[0], program.run([x])[0], rtol=1e-6, atol=1e-6)
    again, _ = folded(made)
    assert str(again) == str(made)


STAYS: dict[str, list[mlp.Layer]] = {
    "the first layer": [SECOND],
    "an activation that does not commute": [dataclasses.replace(FIRST, activation="gelu"), SECOND],
    "a residual of the layer before": [dataclasses.replace(FIRST, residual=0), SECOND],
    "a result that is added later": [FIRST, SECOND, dataclasses.replace(THIRD, residual=1)],
    "a result that is added to the next": [FIRST, dataclasses.replace(SECOND, residual=1)],
    "a float32 layer": [dataclasses.replace(FIRST, weight=FLOATS, scale=-1), SECOND],
    "a norm without gains": [dataclasses.replace(FIRST, norm=True), SECOND],
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(name: str) -> None:
    program = program_of(STAYS[name])
    made, layers = folded(program)
    assert layers == STAYS[name]
    assert str(made) == str(program)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    activations=st.lists(st.sampled_from(["none", "relu", "tanh", "prelu"]), min_size=1, max_size=4),
    factors=st.lists(st.booleans(), min_size=4, max_size=4),
    residual=st.integers(-1, 3),
)
def test_any_chain(seed: int, activations: list[Any], factors: list[bool], residual: int) -> None:
    layers = [
        mlp.Layer(
            *(CODES, BIAS, SCALE, activation),
            slope=SLOPE if activation == "prelu" else -1,
            factor=FACTOR if factor else -1,
        )
        for activation, factor in zip(activations, factors, strict=False)
    ]
    layers[-1] = dataclasses.replace(layers[-1], residual=min(residual, len(layers) - 1))
    program = program_of(layers, seed % 1000)
    made, _ = folded(program)
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(made.run([x])[0], program.run([x])[0], rtol=1e-5, atol=1e-5)
