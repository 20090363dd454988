"""Whole models, fused into the dialect and decomposed again, give the same outputs."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recfx.capture import capture
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ir.operators import DIALECT
from recfx.ops import decompose
from recfx.passes import FUSED, default_pipeline
from recfx.pipeline import Pipeline
from recfx.testing.assertions import compare_on_trials
from recfx.testing.steps import STEPS
from recfx.testing.strategies import rec_graphs
from recfx.zoo import MODELS

NAMES = ("dlrm", "deepfm", "dcn-v2", "din", "two-tower")

#: Steps of random programs that add an operator of the dialect.
DIALECT_STEPS = sorted(name for name, step in STEPS.items() if set(step.operators) & set(DIALECT))


def fused(name: str, precision: str = "fp32") -> Program:
    """A model of the zoo in the dialect, as the native backend receives it."""
    torch.manual_seed(0)
    model = MODELS[name].small().eval()  # type: ignore[attr-defined]
    program = capture(model, model.example_inputs(6), {})
    return Pipeline(default_pipeline(requests=False, kernels=FUSED, precision=precision)).run(program).program


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "fp32") for name in NAMES), *itertools.product(("dlrm", "din"), ("bf16", "int8"))],
)
def test_a_decomposed_model_gives_the_same_answers(name: str, precision: str) -> None:
    program = fused(name, precision)
    assert any(node.target in DIALECT for node in program.graph.nodes)
    made = decompose(program)
    assert not any(node.target in DIALECT for node in made.graph.nodes)
    verify_numeric(program, made, Exactness.REASSOC)


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(rec_graphs(steps=DIALECT_STEPS, max_steps=4, jagged=True), st.integers(0, 2**16))
def test_a_decomposed_random_program_gives_the_same_answers(program: Program, seed: int) -> None:
    compare_on_trials(program, decompose(program), Exactness.REASSOC, seed=seed)
