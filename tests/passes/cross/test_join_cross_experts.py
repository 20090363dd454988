"""join-cross-experts: DCN-Mix's experts are computed side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import needs_kernels
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import nn

import recfx
from recfx.ir import Exactness, verify_numeric
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline

D, R, E = 5, 3, 2
X = (torch.randn(3, D),)
JOINED = {"aten.linear": 4, "aten.matmul": 0, "aten.stack": 0, "aten.softmax.int": 1}


def state(experts: int = E, width: int = D, rank: int = R) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(3)

    def tensor(*sizes: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(sizes, generator=rng))

    return {
        "u": tensor(2, experts, width, rank), "v": tensor(2, experts, width, rank), "c": tensor(2, experts, rank, rank),
        "b": tensor(2, width, 1), "each": tensor(experts, width), "gate": nn.Linear(width, experts),
        "gates": nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(experts)),
        "biased": nn.ModuleList(nn.Linear(width, 1) for _ in range(experts)),
        "down": nn.ModuleList(nn.Linear(width, rank) for _ in range(experts)),
        "mid": nn.ModuleList(nn.Linear(rank, rank) for _ in range(experts)),
        "up": nn.ModuleList(nn.Linear(rank, width, bias=False) for _ in range(experts)),
        "wide": nn.ModuleList(nn.Linear(width, width) for _ in range(experts)),
        "experts": experts,
    }  # fmt: skip


def column_experts(m: Any, x0: torch.Tensor, x: torch.Tensor, layer: int = 0) -> list[torch.Tensor]:
    """Columns [B, D, 1] and slices of one parameter, as in deepctr-torch, torch-rechub and RecBole."""
    outputs = []
    for e in range(m.experts):
        v = torch.tanh(torch.matmul(m.v[layer][e].t(), x))
        v = torch.tanh(torch.matmul(m.c[layer][e], v))
        outputs.append((x0 * (torch.matmul(m.u[layer][e], v) + m.b[layer])).squeeze(2))
    return outputs


def columns(m: Any, x: torch.Tensor, layers: int = 1) -> torch.Tensor:
    x0 = x.unsqueeze(2)
    out = x0
    for layer in range(layers):
        outputs = torch.stack(column_experts(m, x0, out, layer), 2)
        scores = torch.stack([gate(out.squeeze(2)) for gate in m.gates], 1)
        out = torch.matmul(outputs, scores.softmax(1)) + out
    return out.squeeze(2)


def row_experts(m: Any, x0: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    """Rows [B, D] and linears."""
    return [
        x0 * (up(torch.relu(mid(torch.tanh(down(x))))) + m.b[0, :, 0])
        for down, mid, up in zip(m.down, m.mid, m.up, strict=True)
    ]


def summed(m: Any, outputs: list[torch.Tensor], scores: torch.Tensor) -> torch.Tensor:
    return (torch.stack(outputs, 1) * scores.unsqueeze(2)).sum(1)


def one_by_one(m: Any, x: torch.Tensor) -> torch.Tensor:
    scores, out = torch.softmax(m.gate(x), -1), x
    for e, output in enumerate(row_experts(m, x, x)):
        out = out + scores[:, e : e + 1] * output
    return out


def deep(m: Any, x: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Experts without a middle layer."""
    outputs = [x * up(act(down(x))) for down, up in zip(m.down, m.up, strict=True)]
    return x + summed(m, outputs, m.gate(x).softmax(1))


def with_biases(m: Any, x: torch.Tensor) -> torch.Tensor:
    outputs = [x * (up(down(x)) + m.each[e]) for e, (down, up) in enumerate(zip(m.down, m.up, strict=True))]
    return summed(m, outputs, m.gate(x).softmax(1)) + x


def case(body: Callable[..., Any], fired: int = 1, **after: int) -> Case:
    return Case(lambda: Function(body, **state()), X, fired, {**JOINED, **after})


FIRES = {
    "columns": case(columns),
    "two layers": case(lambda m, x: columns(m, x, 2), 2, **{"aten.linear": 8, "aten.softmax.int": 2}),
    "rows, stack and sum": case(lambda m, x: summed(m, row_experts(m, x, x), m.gate(x).softmax(1)) + x),
    "rows, residual first": case(lambda m, x: x + summed(m, row_experts(m, x, x), m.gate(x).softmax(-1))),
    "rows, x0 is not x": case(lambda m, x: summed(m, row_experts(m, x.exp(), x), m.gate(x).softmax(1)) + x),
    "rows, gates before bmm": case(
        lambda m, x: torch.bmm(m.gate(x).softmax(1).unsqueeze(1), torch.stack(row_experts(m, x, x), 1)).squeeze(1) + x
    ),
    "gates concatenated, with biases": case(
        lambda m, x: summed(m, row_experts(m, x, x), torch.cat([g(x) for g in m.biased], 1).softmax(1)) + x
    ),
    "one by one": case(one_by_one),
    "sum() of rows": case(
        lambda m, x: (lambda s: sum(s[:, e].unsqueeze(1) * o for e, o in enumerate(row_experts(m, x, x))) + x)(
            m.gate(x).softmax(1)
        )
    ),
    "two layers to an expert": case(lambda m, x: deep(m, x, torch.sigmoid), **{"aten.linear": 3}),
    "no activation": case(lambda m, x: deep(m, x, lambda y: y), **{"aten.linear": 3}),
    "a bias for each expert": case(with_biases, **{"aten.linear": 3, "aten.cat": 1}),
    "tied experts": case(
        lambda m, x: summed(m, [x * m.up[0](torch.tanh(m.down[0](x)))] * E, m.gate(x).softmax(1)) + x,
        **{"aten.linear": 3},
    ),
}  # fmt: skip


def mixed(outputs: Callable[..., list[torch.Tensor]], scores: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    return lambda m, x: summed(m, outputs(m, x, x), scores(m, x)) + x


LEAVES_ALONE = {
    "gates that are not a softmax": (mixed(row_experts, lambda m, x: m.gate(x).sigmoid()), "not a softmax"),
    "gates of something else": (mixed(row_experts, lambda m, x: m.gate(x.exp()).softmax(1)), "not linears of"),
    "gates behind an activation": (mixed(row_experts, lambda m, x: torch.relu(m.gate(x)).softmax(1)), "not linears of"),
    "experts of full rank": (mixed(lambda m, x0, x: [x0 * w(x) for w in m.wide], lambda m, x: m.gate(x).softmax(1)), "low rank"),
    "experts of something else": (mixed(lambda m, x0, x: row_experts(m, x0, x.exp()), lambda m, x: m.gate(x).softmax(1)), "low rank"),
    "an activation behind an expert": (
        mixed(lambda m, x0, x: [x0 * torch.tanh(u(d(x))) for d, u in zip(m.down, m.up, strict=True)], lambda m, x: m.gate(x).softmax(1)),
        "low rank",
    ),
    "different x0": (
        mixed(lambda m, x0, x: [row_experts(m, x0, x)[0], row_experts(m, x0.exp(), x)[1]], lambda m, x: m.gate(x).softmax(1)),
        "different tensors",
    ),
    "different activations": (
        mixed(
            lambda m, x0, x: [x0 * m.up[0](torch.tanh(m.down[0](x))), x0 * m.up[1](torch.relu(m.down[1](x)))],
            lambda m, x: m.gate(x).softmax(1),
        ),
        "differ in size or activation",
    ),
}  # fmt: skip
NO_MIXTURE = {
    "no residual": lambda m, x: summed(m, row_experts(m, x, x), m.gate(x).softmax(1)) + x.exp(),
    "scaled residual": lambda m, x: torch.add(summed(m, row_experts(m, x, x), m.gate(x).softmax(1)), x, alpha=2),
    "a number added": lambda m, x: summed(m, row_experts(m, x, x), m.gate(x).softmax(1)) + 1 + x,
    "gates in another order": lambda m, x: (lambda s, o: x + s[:, 1:2] * o[0] + s[:, 0:1] * o[1])(
        m.gate(x).softmax(1), row_experts(m, x, x)
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("join-cross-experts", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("join-cross-experts", map(program_of, FIRES.values()), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, reason = LEAVES_ALONE[name]
    check_does_not_fire("join-cross-experts", Case(lambda: Function(body, **state()), X, reason=reason))


@pytest.mark.parametrize("name", NO_MIXTURE)
def test_is_no_mixture(name: str) -> None:
    program = program_of(Case(lambda: Function(NO_MIXTURE[name], **state()), X))
    assert run("join-cross-experts", program).records[0].fired == 0


def test_experts_with_large_inner_layers_are_left_alone() -> None:
    case = Case(lambda: Function(columns, **state(4, 2, 6)), (torch.randn(3, 2),), reason="are wider than")
    check_does_not_fire("join-cross-experts", case)


def test_layers_that_share_their_gates_go_on_sharing() -> None:
    program = check_fires("join-cross-experts", FIRES["two layers"], Exactness.REASSOC)
    assert [name for name in program.state() if "gates" in name] == ["experts.gates"]
    assert not {"u", "v", "c", "b"} & set(program.state())


@needs_kernels
def test_the_layers_run_natively_and_agree() -> None:
    torch.manual_seed(1)
    model = Function(lambda m, x: columns(m, x, 2), **state(3, 24, 4))
    fast = recfx.optimize(model, example_inputs=(torch.randn(4, 24),), target="native", measure=False)
    for batch in (1, 2, 33):
        x = torch.randn(batch, 24)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5 * float(model(x).detach().abs().max()))
    program = Pipeline(NATIVE_PIPELINE).run(program_of(Case(lambda: model, (torch.randn(4, 24),)))).program
    assert operators(program)["aten.matmul"] == operators(program)["aten.stack"] == 0


@few_models
@given(
    seed=st.integers(0, 2**16),
    width=st.integers(2, 6),
    rank=st.integers(1, 3),
    experts=st.integers(2, 4),
    layers=st.integers(1, 2),
    on_rows=st.booleans(),
)
def test_any_mixture_is_joined(seed: int, width: int, rank: int, experts: int, layers: int, on_rows: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    held = state(experts, width, rank)
    for parameter in [held["u"], held["v"], held["c"], held["b"]]:
        parameter.data = torch.randn(parameter.shape, generator=rng)
    rows: Callable[..., Any] = lambda m, x: summed(m, row_experts(m, x, x), m.gate(x).softmax(1)) + x  # noqa: E731
    body = rows if on_rows else lambda m, x: columns(m, x, layers)
    program = program_of(Case(lambda: Function(body, **held), (torch.randn(3, width, generator=rng),)))
    result = run("join-cross-experts", program)
    inner = experts**2 * rank**2 <= 2 * 2 * experts * width * rank
    assert result.records[0].fired == ((1 if on_rows else layers) if inner else 0)
    verify_numeric(program, result.program, Exactness.REASSOC)
