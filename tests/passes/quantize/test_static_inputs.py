"""Int8 layers whose rows have scales of their own get one calibrated scale for all rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recfx.capture import capture
from recfx.ir import Program
from recfx.passes.quantize.input_scales import input_scale
from recfx.passes.quantize.layer_kinds import KINDS
from recfx.passes.quantize.static_inputs import dynamic_layers, with_static_inputs
from recfx.pipeline import Pipeline
from recfx.zoo import DCNv2

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


def int8(model: nn.Module, example: Any = (X,), **options: Any) -> Program:
    given = ", ".join(f"{key}={value}" for key, value in {"min_weights": 1, "min_outputs": 1, **options}.items())
    text = f"canonicalize,fuse-cross,fuse-mlp,quantize-linears{{{given}}}"
    return Pipeline(text).run(capture(model.eval(), example), resources={"calibration": [example]}).program


def layers_of(program: Program) -> list[Any]:
    return [layer for n in program.graph.nodes if n.target in KINDS for layer in KINDS[n.target].layers(n.args)]


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("method", ["min-max", "mse"])
def test_all_layers_get_the_scale_of_their_inputs(method: Any) -> None:
    model = two_layers()
    program = int8(model)
    assert len(dynamic_layers(program)) == 1
    made = with_static_inputs(program, [[X]], method)
    first, second = layers_of(made)
    assert first.input_scale == pytest.approx(input_scale(X, method))
    hidden = model[:2](X).detach()
    assert second.input_scale == pytest.approx(input_scale(hidden, method), rel=0.1)
    assert dynamic_layers(made) == []
    assert [layer.input_scale for layer in layers_of(program)] == [0.0, 0.0]  # the program stays as it is
    torch.testing.assert_close(made.run([X])[0], model(X).detach(), rtol=0, atol=0.1)


def test_layers_that_have_a_scale_keep_it() -> None:
    program = int8(two_layers(), activations="min-max")
    assert dynamic_layers(program) == []
    before = [layer.input_scale for layer in layers_of(program)]
    assert [layer.input_scale for layer in layers_of(with_static_inputs(program, [[3 * X]], "mse"))] == before


def test_inputs_of_zeros_keep_a_scale_for_each_row() -> None:
    made = with_static_inputs(int8(two_layers()), [[torch.zeros(4, 6)]], "mse")
    assert layers_of(made)[0].input_scale <= 0
    assert len(dynamic_layers(made)) == 1


def test_factors_of_the_input_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    wide = X * torch.tensor([1000.0, 1, 1, 1, 1, 1])
    with torch.no_grad():
        model[0].weight[:, 0] *= 1e-3
    program = int8(model, (wide,), migrate=True)
    (layer,) = layers_of(program)
    assert layer.factor >= 0, "the columns have ranges that migration levels"
    (static,) = layers_of(with_static_inputs(program, [[wide]], "min-max"))
    assert static.input_scale < float(wide.abs().max()) / 127 / 10


def test_both_matrices_of_cross_layers_get_scales() -> None:
    model = DCNv2.small(rank=4)
    inputs = model.example_inputs(30)
    program = int8(model, inputs)
    rows = [list(inputs)]
    made = with_static_inputs(program, rows, "mse")
    assert dynamic_layers(program)
    assert dynamic_layers(made) == []
    torch.testing.assert_close(made.run(rows[0])[0], model(*inputs).detach(), rtol=0, atol=0.2)


def test_programs_in_float32_have_no_such_layer() -> None:
    program = Pipeline("canonicalize,fuse-mlp").run(capture(two_layers().eval(), (X,))).program
    assert dynamic_layers(program) == []
