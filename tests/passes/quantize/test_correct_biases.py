"""Bias correction: afterwards the mean of each output channel on the calibration rows is that of the layer in float32."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recfx.capture import capture
from recfx.ir import Program
from recfx.passes.quantize.calibrated_layers import observe
from recfx.passes.quantize.layer_kinds import KINDS
from recfx.pipeline import Pipeline

OPTIONS = "min_weights=1, min_outputs=1"


def fused(model: nn.Module, x: torch.Tensor) -> Program:
    return Pipeline("canonicalize,fuse-cross,fuse-mlp").run(capture(model.eval(), (x,))).program


def chain(seed: int, widths: list[int]) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def means(program: Program, rows: list[list[Any]]) -> list[torch.Tensor]:
    """The mean of each product of the layers of a program, in order."""
    nodes = [node for node in program.graph.nodes if node.target in KINDS]
    found = observe(program, rows, nodes)
    return [
        found[place].mean for node in nodes for place in sorted((p for p in found if p[0] is node), key=lambda p: p[1])
    ]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), widths=st.lists(st.integers(2, 9), min_size=2, max_size=4), shift=st.floats(-3, 3))
def test_the_means_of_all_layers_are_those_in_float32(seed: int, widths: list[int], shift: float) -> None:
    x = torch.randn(40, widths[0], generator=torch.Generator().manual_seed(seed)) + shift
    program = fused(chain(seed, widths), x)
    wanted = means(program, [[x[:25]], [x[25:]]])
    given_rows = {"calibration": [(x[:25],), (x[25:],)]}
    passes = Pipeline(f"quantize-linears{{correct_bias=true, {OPTIONS}}}")
    found = means(passes.run(program, resources=given_rows).program, [[x[:25]], [x[25:]]])
    for want, got in zip(wanted, found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_without_correction_the_means_are_off() -> None:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + 2
    program = fused(chain(0, [8, 8, 3]), x)
    wanted = means(program, [[x]])
    plain = Pipeline(f"quantize-linears{{{OPTIONS}}}").run(program).program
    corrected = (
        Pipeline(f"quantize-linears{{correct_bias=true, {OPTIONS}}}")
        .run(program, resources={"calibration": [(x,)]})
        .program
    )
    errors = [
        max(float((a - b).abs().max()) for a, b in zip(wanted, means(made, [[x]]), strict=True))
        for made in (plain, corrected)
    ]
    assert errors[1] < 0.05 * errors[0]


def test_a_mean_that_is_not_finite_leaves_the_bias_alone() -> None:
    x = torch.randn(20, 4)
    x[3, 1] = torch.inf
    program = fused(chain(1, [4, 5, 2]), torch.randn(3, 4))
    made = (
        Pipeline(f"quantize-linears{{correct_bias=true, {OPTIONS}}}")
        .run(program, resources={"calibration": [(x,)]})
        .program
    )
    assert all(bool(t.isfinite().all()) for t in made.state().values() if t.is_floating_point())


@pytest.mark.parametrize("rows", [1, 2])
def test_a_single_row_is_met_exactly_by_the_last_layer(rows: int) -> None:
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(3))
    program = fused(chain(2, [6, 7, 2]), torch.randn(4, 6))
    made = (
        Pipeline(f"quantize-linears{{correct_bias=true, {OPTIONS}}}")
        .run(program, resources={"calibration": [(x,)]})
        .program
    )
    torch.testing.assert_close(made.run([x])[0].mean(0), program.run([x])[0].mean(0), rtol=1e-4, atol=1e-5)
