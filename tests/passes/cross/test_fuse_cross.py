"""fuse-cross: cross layers become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, operators, program_of, run
from torch import nn

from recfx import zoo
from recfx.capture import capture
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ops import cross
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline

D = 4
X = (torch.randn(3, D),)
GONE = {"recfx.cross": 1, "aten.mul.Tensor": 0, "aten.linear": 0, "aten.matmul": 0, "aten.tensordot": 0}


def state() -> dict[str, Any]:
    rng = torch.Generator().manual_seed(3)

    def tensor(*sizes: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(sizes, generator=rng))

    return {
        "w": tensor(D), "b": tensor(D), "c": tensor(D), "w1": tensor(D, 1), "b1": tensor(D, 1), "wt": tensor(1, D), "W": tensor(D, D),
        "full": nn.Linear(D, D), "one": nn.Linear(D, 1, bias=False), "u": nn.Linear(2, D),
        "v": nn.Linear(D, 2, bias=False), "biased": nn.Linear(D, 1), "vb": nn.Linear(D, 2),
    }  # fmt: skip


def case(body: Callable[..., Any], fired: int = 1, **after: int) -> Case:
    return Case(lambda: Function(body, **state()), X, fired, {**GONE, **after})


def columns(step: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor], layers: int = 1) -> Callable[..., Any]:
    """A stack on columns, as in deepctr-torch."""

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        x0 = x.exp().unsqueeze(2)
        out = x0
        for _ in range(layers):
            out = step(m, x0, out)
        return torch.squeeze(out, dim=2)

    return body


def deepctr_vector(m: Any, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    xw = torch.tensordot(x, m.w1, dims=([1], [0]))
    return torch.matmul(x0, xw) + m.b1 + x


def deepctr_matrix(m: Any, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    dot = torch.matmul(m.W, x) + m.b1
    return x0 * dot + x


FIRES = {
    "vector, linear": case(lambda m, x: x * m.one(x) + m.b + x),
    "vector, bias last": case(lambda m, x: x * m.one(x) + x + m.b),
    "vector, bias first": case(lambda m, x: m.b + (x + m.one(x) * x)),
    "vector without bias": case(lambda m, x: m.one(x) * x + x),
    "vector, matmul with [D]": case(lambda m, x: x * (x @ m.w).unsqueeze(1) + m.b + x),
    "vector, matmul with [D, 1]": case(lambda m, x: x * torch.matmul(x, m.w1) + m.b + x),
    "vector, mm": case(lambda m, x: x * torch.mm(x, m.w1) + m.b + x, **{"aten.mm": 0}),
    "vector, sum of products": case(lambda m, x: x * (x * m.w).sum(1, keepdim=True) + m.b + x),
    "vector on columns": case(columns(deepctr_vector), 2),
    "two vectors on columns": case(columns(deepctr_vector, 2), 4),
    "vector, column times row": case(
        lambda m, x: torch.matmul(torch.matmul(x.unsqueeze(2), x.unsqueeze(1)), m.w1).squeeze(2) + m.b + x
    ),
    "vector, transposed column": case(
        columns(lambda m, x0, x: torch.matmul(x0, torch.matmul(x.transpose(1, 2), m.w1)) + m.b1 + x), 2
    ),
    "vector, product of columns": case(
        columns(lambda m, x0, x: x0 * torch.matmul(x.transpose(1, 2), m.w1) + m.b1 + x), 2
    ),
    "vector, on the transpose": case(
        lambda m, x: (x.transpose(0, 1) * torch.tensordot(x, m.w, dims=([1], [0]))).transpose(0, 1) + m.b + x
    ),
    "vector, on the transpose, factors the other way round": case(lambda m, x: x + (torch.mv(x, m.w) * x.t()).t() + m.b),
    "full": case(lambda m, x: x * m.full(x) + x),
    "full, other orders": case(lambda m, x: x + m.full(x) * x),
    "full, x0 is not x": case(lambda m, x: x.exp() * m.full(x) + x),
    "full, matmul": case(lambda m, x: x * (x @ m.W + m.b) + x, **{"aten.add.Tensor": 0}),
    "full on columns": case(columns(deepctr_matrix), 2),
    "three of them on columns": case(columns(deepctr_matrix, 3), 6),
    "full, bias behind": case(lambda m, x: x * torch.mm(x, m.W) + m.b + x, **{"aten.add.Tensor": 1}),
    "low rank": case(lambda m, x: x * m.u(m.v(x)) + x),
    "stack": case(lambda m, x: stacked(m, x, [m.full, m.full, m.full]), 5),
    "mixed stack": case(lambda m, x: stacked(m, x, [m.full, m.one, lambda y: m.u(m.v(y))]), 5),
    "late biases": case(lambda m, x: late(m, x, [m.W, m.W, m.W], [m.b, m.c, m.b]), 9, **{"aten.add.Tensor": 1}),
    "late bias before low rank": case(lambda m, x: x * m.u(m.v(y := x * (x @ m.W) + m.b + x)) + y, 4, **{"aten.add.Tensor": 1}),
    "late bias between stacks": case(
        lambda m, x: stacked(m, x, [m.full, m.full], late(m, x, [m.W], [m.b])), 7, **{"aten.add.Tensor": 1}
    ),
    "late biases before a vector": case(
        lambda m, x: stacked(m, x, [m.one], late(m, x, [m.W], [m.b])), 2, **{"recfx.cross": 2, "aten.add.Tensor": 1}
    ),
    "layers of another x0 behind a late bias": case(
        lambda m, x: (lambda y: x.exp() * m.full(y) + y)(late(m, x, [m.W], [m.b])), 2,
        **{"recfx.cross": 2, "aten.add.Tensor": 1},
    ),
    "a late bias read elsewhere": case(
        lambda m, x: (lambda y: (x * (y @ m.W) + y).sin() + y.cos())(late(m, x, [m.W], [m.b])), 2,
        **{"recfx.cross": 2, "aten.add.Tensor": 2},
    ),
    "layers of other x0": case(
        lambda m, x: (lambda y: y.exp() * m.full(y) + y)(x * m.full(x) + x), 2, **{"recfx.cross": 2}
    ),
    "a layer read elsewhere": case(
        lambda m, x: (lambda y: (x * m.full(y) + y).sin() + y.cos())(x * m.full(x) + x), 2, **{"recfx.cross": 2}
    ),
}  # fmt: skip


def stacked(
    m: Any, x0: torch.Tensor, gates: list[Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor | None = None
) -> torch.Tensor:
    x = x0 if x is None else x
    for gate in gates:
        x = x0 * gate(x) + x
    return x


def late(m: Any, x0: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> torch.Tensor:
    """Biases after the product, as in torch-rechub."""
    x = x0
    for weight, bias in zip(weights, biases, strict=True):
        x = x0 * (x @ weight) + bias + x
    return x


LEAVES_ALONE = {
    "bias of the vector's product": (lambda m, x: x * m.biased(x) + x, "bias of its own"),
    "bias of the inner product": (lambda m, x: x * m.u(m.vb(x)) + x, "has a bias"),
    "two biases": (lambda m, x: x * (m.full(x) + m.b) + x, "two biases"),
    "numbers of other rows on the transpose": (lambda m, x: (x.t() * (x.exp() @ m.w)).t() + m.b + x, None),
    "a number times the transpose": (lambda m, x: (x.t() * 2.0).t() + x, None),
    "a full product on the transpose": (lambda m, x: (x.t() * (x @ m.W).t()).t() + m.b + x, None),
    "another residual": (lambda m, x: x * m.full(x) + x.exp(), None),
    "no residual": (lambda m, x: x * m.full(x) + m.b, None),
    "an activation inside": (lambda m, x: x * torch.relu(m.full(x)) + x, None),
    "subtracted": (lambda m, x: x * m.full(x) - x, None),
    "scaled residual": (lambda m, x: torch.add(x * m.full(x), x, alpha=2), None),
    "added, not multiplied": (lambda m, x: x + m.full(x) + x, None),
    "over positions": (lambda m, x: (lambda y: y * m.full(y) + y)(x.unsqueeze(1).expand(-1, 2, -1)), None),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-cross", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fuse-cross", map(program_of, FIRES.values()), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, reason = LEAVES_ALONE[name]
    case = Case(lambda: Function(body, **state()), X, reason=reason)
    check_does_not_fire("fuse-cross", case)


class MixedCross(nn.Module):
    """A layer of DCN-Mix: low-rank experts with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(D, D) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(D, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([x * expert(x) for expert in self.experts], 2)
        scores = torch.stack([gate(x) for gate in self.gates], 1).softmax(1)
        return (torch.matmul(outputs, scores) + x.unsqueeze(2)).squeeze(2)


def test_a_mixture_of_experts_is_left_alone() -> None:
    check_does_not_fire("fuse-cross", Case(lambda: MixedCross().eval(), X, reason="mixture of experts"))


def layers_of(program: Program) -> list[list[cross.CrossLayer]]:
    calls: list[Any] = [n for n in program.graph.nodes if n.target is cross.cross]
    return [cross.decode(n.args[3]) for n in calls]


def test_tied_layers_share_their_parameters() -> None:
    program = check_fires("fuse-cross", FIRES["stack"], Exactness.REASSOC)
    ((first, second, third),) = layers_of(program)
    assert first == second == third
    assert set(program.state()) == {"full.weight", "full.bias"}


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_dcn_v2(rank: int | None, structure: str) -> None:
    model = zoo.DCNv2.small(rank=rank, structure=structure).eval()
    before = NATIVE_PIPELINE.split(",fuse-cross")[0]
    program = Pipeline(before).run(capture(model, model.example_inputs(4))).program
    result = run("fuse-cross", program).program
    (layers,) = layers_of(result)
    assert [layer.kind for layer in layers] == [cross.FULL if rank is None else cross.LOW_RANK] * 2
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    width=st.integers(2, 5),
    kinds=st.lists(st.sampled_from(["vector", "full", "low rank"]), min_size=1, max_size=3),
)
def test_any_stack_becomes_one_operator(seed: int, width: int, kinds: list[str]) -> None:
    torch.manual_seed(seed)
    made = {
        "vector": lambda: nn.Linear(width, 1, bias=False),
        "full": lambda: nn.Linear(width, width),
        "low rank": lambda: nn.Sequential(nn.Linear(width, 1, bias=False), nn.Linear(1, width)),
    }
    gates = nn.ModuleList(made[kind]() for kind in kinds)
    program = program_of(
        Case(lambda: Function(lambda m, x: stacked(m, x, list(m.g)), g=gates), (torch.randn(3, width),))
    )
    result = run("fuse-cross", program).program
    assert operators(result) == {"recfx.cross": 1}
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    width=st.integers(2, 5),
    kinds=st.lists(st.sampled_from(["full", "full with bias", "low rank"]), min_size=1, max_size=4),
)
def test_any_stack_with_late_biases_becomes_one_operator(seed: int, width: int, kinds: list[str]) -> None:
    torch.manual_seed(seed)
    made = {
        "full": lambda: nn.Linear(width, width, bias=False),
        "full with bias": lambda: nn.Linear(width, width),
        "low rank": lambda: nn.Sequential(nn.Linear(width, 1, bias=False), nn.Linear(1, width)),
    }
    gates = nn.ModuleList(made[kind]() for kind in kinds)
    biases = nn.ParameterList(torch.randn(width) for _ in kinds)

    def body(m: Any, x0: torch.Tensor) -> torch.Tensor:
        x = x0
        for gate, bias in zip(m.g, m.b, strict=True):
            x = x0 * gate(x) + bias + x
        return x

    program = program_of(Case(lambda: Function(body, g=gates, b=biases), (torch.randn(3, width),)))
    result = run("fuse-cross", program).program
    assert operators(result) == {"recfx.cross": 1, "aten.add.Tensor": 1}
    verify_numeric(program, result, Exactness.REASSOC)
