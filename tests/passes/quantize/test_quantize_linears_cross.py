"""quantize-linears on cross layers: the quantised weights, the unchanged weights, and the kernels' results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import Case, Function, few_models, operators, run
from torch import nn

from recfx import zoo
from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_numeric
from recfx.ops import cross
from recfx.passes import FUSED, FuseCross, QuantizeLinears, default_pipeline
from recfx.pipeline import Pipeline
from recfx.testing import GraphBuilder

X = (torch.randn(5, 8, generator=torch.Generator().manual_seed(0)),)
EVERY = QuantizeLinears(min_weights=1)
SHARE = 0.03  # relative to the norm of an int8 product, as in test_quantize_linears

BODIES: dict[str, tuple[Any, int]] = {
    "full": (lambda m, x: x * m.a(x) + x, 1),
    "full without bias": (lambda m, x: x * m.b(x) + x, 1),
    "low rank": (lambda m, x: x * m.u(m.v(x)) + x, 2),
    "tied": (lambda m, x: (lambda y: x * m.a(y) + y)(x * m.a(x) + x), 1),
    "with a vector between": (
        lambda m, x: (lambda z: x * m.a(z) + z)((lambda y: x * m.one(y) + m.c + y)(x * m.b(x) + x)),
        2,
    ),
}


def fused(name: str) -> Program:
    torch.manual_seed(0)
    state = {
        "a": nn.Linear(8, 8), "b": nn.Linear(8, 8, bias=False), "u": nn.Linear(3, 8), "v": nn.Linear(8, 3, bias=False),
        "one": nn.Linear(8, 1, bias=False), "c": nn.Parameter(torch.randn(8)),
    }  # fmt: skip
    case = Case(lambda: Function(BODIES[name][0], **state), X, 1)
    return Pipeline("canonicalize,fuse-cross").run(capture(case.model(), case.inputs)).program


def matrices(program: Program) -> list[torch.Tensor]:
    """The matrices of all cross layers."""
    found = []
    for node in program.graph.nodes:
        if node.target is cross.cross:
            params: Any = node.args[2]
            for layer in cross.decode(node.args[3]):
                places = [] if layer.kind == cross.VECTOR else [layer.weight, layer.inner]
                found += [program.state()[str(params[at].target)] for at in places if at >= 0]
    return found


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("bits", [8, 16])
def test_fires(name: str, bits: int) -> None:
    program, fired = fused(name), BODIES[name][1]
    item = QuantizeLinears(bits=bits, min_weights=1)
    result = run(item, program)
    assert result.records[0].fired == fired
    assert operators(result.program) == operators(program)
    assert {m.dtype for m in matrices(result.program)} == {torch.int8 if bits == 8 else torch.bfloat16}
    verify_numeric(program, result.program, Exactness.APPROX)
    again = run(item, result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None
    for batch in (1, 2, 7):
        leaves = [torch.randn(batch, 8, generator=torch.Generator().manual_seed(batch))]
        (want,), (got,) = program.run(leaves), result.program.run(leaves)
        assert 0 < float((got - want).norm()) <= SHARE * 3 * float(want.norm())


def test_leaves_vectors_and_small_matrices_alone() -> None:
    vector = Case(lambda: Function(lambda m, x: x * m.one(x) + x, one=nn.Linear(8, 1, bias=False)), X, 1)
    program = Pipeline("canonicalize,fuse-cross").run(capture(vector.model(), X)).program
    assert run(EVERY, program).records[0].fired == 0
    (record,) = run(QuantizeLinears(min_weights=65), fused("full")).records
    assert record.fired == 0
    assert "only 64 weights" in str(record.misses)


def test_biases_do_not_move_through_weights_of_few_bits() -> None:
    """fuse-cross folds a constant between two stacks into the second's bias, which it computes from the float
    weights."""
    b = GraphBuilder({"x": ("batch", 8)})
    x, codes = b.inputs["x"], b.state("w", torch.ones(8, 8, dtype=torch.int8))
    scale, constant = b.state("s", torch.rand(8)), b.state("c", torch.randn(8))
    layers = cross.encode([cross.CrossLayer(cross.FULL, 0, scale=1)])
    first = b.call(cross.cross, x, x, [codes, scale], layers)
    shifted = b.call(torch.ops.aten.add.Tensor, first, constant)
    program = b.build(b.call(cross.cross, x, shifted, [codes, scale], layers))
    result = run(FuseCross(), program)
    assert result.records[0].fired == 0
    assert "quantised already" in str(result.records[0].misses)
    assert same_graph(program, result.program) is None


@few_models
@given(
    seed=st.integers(0, 2**32),
    width=st.integers(2, 40),
    rank=st.integers(2, 6),
    low=st.lists(st.booleans(), min_size=1, max_size=3),
)
def test_any_stack_computes_what_its_weights_stand_for(seed: int, width: int, rank: int, low: list[bool]) -> None:
    torch.manual_seed(seed)
    full, u, v = nn.Linear(width, width), nn.Linear(rank, width), nn.Linear(width, rank, bias=False)

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = x
        for inner in low:
            y = x * (m.u(m.v(y)) if inner else m.full(y)) + y
        return y

    x = (torch.randn(4, width),)
    program = Pipeline("canonicalize,fuse-cross").run(capture(Function(body, full=full, u=u, v=v), x)).program
    after = run(EVERY, program).program
    (want,), (got,) = program.run(list(x)), after.run(list(x))
    assert float((got - want).norm()) <= SHARE * 2 * len(low) * float(want.norm()) + 1e-6
    assert all(m.dtype is torch.int8 for m in matrices(after))


def test_a_whole_model_at_int8() -> None:
    torch.manual_seed(0)
    model = zoo.build("dcn-v2", tables=(50, 60, 70, 80), dim=16).eval()
    inputs = model.example_inputs(6)
    program = (
        Pipeline(default_pipeline(requests=False, kernels=FUSED, precision="int8")).run(capture(model, inputs)).program
    )
    stored = matrices(program)
    assert stored
    assert all((m.dtype is torch.int8) == (m.numel() >= QuantizeLinears().min_weights) for m in stored)
    (want,), (got,) = capture(model, inputs).run(list(inputs)), program.run(list(inputs))
    assert float((got - want).abs().max()) <= 0.1 * float(want.abs().max()) + 0.05
