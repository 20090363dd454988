"""fuse-parallel-linears: independent linears become one product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import Tensor, nn

import recfx
from recfx.capture import capture
from recfx.ir import Exactness, verify_numeric
from recfx.passes import DEFAULT_PIPELINE, FuseParallelLinears
from recfx.pipeline import Pipeline
from recfx.testing import assert_pass_preserves
from recfx.zoo import MODELS

K = 6


def case(
    body: Callable[..., Any],
    fired: int = 1,
    linears: int = 1,
    *,
    shape: tuple[int, ...] = (3, K),
    reason: str = "",
    **after: int,
) -> Case:
    def model() -> nn.Module:
        torch.manual_seed(1)
        layers = {"a": nn.Linear(K, 5), "b": nn.Linear(K, 3, bias=False), "c": nn.Linear(K, 5), "d": nn.Linear(5, 4)}
        layers |= {"e": nn.Linear(5, 4, bias=False), "f": nn.Linear(5, 4), "g": nn.Linear(K, 5)}
        return Function(body, **layers)

    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    return Case(model, (x,), fired, {"aten.linear": linears, **{f"aten.{k}": v for k, v in after.items()}}, reason)


def heads(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (p(x).view(x.shape[0], 4, 5, 1).transpose(1, 2) for p in (m.a, m.c, m.g))
    return torch.softmax(q @ k.transpose(-2, -1), -1) @ v


FIRES = {
    "two of one input": case(lambda m, x: m.a(x) * m.c(x)),
    "a bias is missing": case(lambda m, x: torch.cat([m.a(x), m.b(x)], 1)),
    "no biases": case(lambda m, x: m.b(x).sum(1, keepdim=True) + nn.functional.linear(x, m.c.weight), baddbmm=0),
    "an output itself": case(lambda m, x: (m.a(x), m.b(x), m.c(x))),
    "read several times": case(lambda m, x: (lambda y: y * 2 + y.exp() + m.c(x))(m.a(x))),
    "equal activations": case(lambda m, x: torch.relu(m.a(x)) + torch.relu(m.c(x)), relu=1),
    "other activations": case(lambda m, x: torch.relu(m.a(x)) + m.c(x).sigmoid() * m.g(x).relu(), relu=1, sigmoid=1),
    "other arguments": case(
        lambda m, x: nn.functional.leaky_relu(m.a(x), 0.1) + nn.functional.leaky_relu(m.c(x), 0.2), leaky_relu=2
    ),
    "three dimensions, viewed": case(heads, shape=(3, 4, K), view=0),
    "wide and then apart": case(lambda m, x: m.d(m.a(x).relu()) + m.f(m.c(x).relu()), 2, 1, baddbmm=1, relu=1),
    "experts": case(
        lambda m, x: torch.stack([m.d(m.a(x).relu()), m.e(m.c(x).relu()), m.f(m.g(x).relu())], 1).relu(),
        2,
        1,
        baddbmm=1,
        stack=0,
    ),
    "apart, copied together": case(lambda m, x: m.a(x) + m.c(x.tanh()) + m.g(x.exp()), linears=0, baddbmm=1, stack=1),
    "one waits for an activation of another's input": case(
        lambda m, x: m.a(x) + m.c(x.tanh()).exp() * m.g(x.tanh() + 1), linears=0, baddbmm=1
    ),
}

LEAVES_ALONE = {
    "two apart": case(lambda m, x: m.a(x) + m.c(x.tanh()), reason="joining them copies their inputs"),
    "a shared weight": case(lambda m, x: m.d(m.a(x)) + m.d(m.a(x).relu()), reason="shared"),
    "a computed weight": case(lambda m, x: nn.functional.linear(x, m.a.weight * x.mean()) + m.c(x), reason="computed"),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-parallel-linears", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fuse-parallel-linears", map(program_of, FIRES.values()), Exactness.REASSOC)


def test_leaves_alone() -> None:
    for alone in LEAVES_ALONE.values():
        check_does_not_fire("fuse-parallel-linears", alone)
    other_shapes = case(lambda m, x: m.d(m.a(x)) + m.b(x.tanh()).sum(1, keepdim=True))
    assert run("fuse-parallel-linears", program_of(other_shapes)).records[0].fired == 0
    check_does_not_fire(
        FuseParallelLinears(max_weight=29),
        Case(FIRES["apart, copied together"].model, (torch.randn(3, K),), reason="each has 30 weights"),
    )
    check_does_not_fire(
        FuseParallelLinears(at_least=3, at_least_batched=9),
        Case(FIRES["two of one input"].model, (torch.randn(3, K),), reason="only 2"),
    )


def test_a_shared_weight_stays_shared() -> None:
    shared = case(lambda m, x: m.a(x) + m.c(x) + m.a(x.tanh()) + m.a(x.exp()), reason="shared")
    check_does_not_fire("fuse-parallel-linears", shared)
    some = case(lambda m, x: m.a(x) + m.c(x) + m.g(x) + m.a(x.tanh()), linears=3)
    after = check_fires("fuse-parallel-linears", some, Exactness.REASSOC)
    assert sum("a.weight" in name for name in after.state()) == 1


def test_experts_of_three_layers_and_a_chain_of_dependent_ones() -> None:
    def body(m: nn.Module, x: Tensor) -> Tensor:
        deep = [layers(x) for layers in m.experts]
        return torch.stack(deep, 1).sum(1) + m.after(deep[0])

    def model() -> nn.Module:
        torch.manual_seed(0)
        experts = nn.ModuleList(
            nn.Sequential(nn.Linear(K, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4)) for _ in range(4)
        )
        return Function(body, experts=experts, after=nn.Linear(4, 4))

    after = check_fires("fuse-parallel-linears", Case(model, (torch.randn(3, K),), 3), Exactness.REASSOC)
    counts = operators(after)
    assert (counts["aten.linear"], counts["aten.baddbmm"], counts["aten.relu"], counts["aten.tanh"]) == (2, 2, 1, 1)


def test_mmoe_is_one_product_a_layer() -> None:
    torch.manual_seed(0)
    model = MODELS["mmoe"].small(experts=4, tasks=3).eval()  # type: ignore[attr-defined]
    program = capture(model, model.example_inputs(5))
    result = Pipeline(DEFAULT_PIPELINE).run(program)
    counts = operators(result.program)
    # all experts and gates; the experts' second layers; the towers' two layers
    assert (counts["aten.linear"], counts["aten.baddbmm"]) == (1, 3)
    verify_numeric(program, result.program, Exactness.REASSOC)


@pytest.mark.parametrize("name", ["mmoe", "bst", "sasrec", "two-tower", "neumf", "lightgcn"])
def test_models_of_the_zoo_survive_saving(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = MODELS[name].small().eval()  # type: ignore[attr-defined]
    fast = recfx.optimize(model, example_inputs=model.example_inputs(5), verify="numeric", measure=False)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    for batch in (1, 3, 33):
        inputs = model.example_inputs(batch, seed=batch)
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
        assert torch.equal(fast(*inputs), loaded(*inputs))


ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [torch.relu, torch.tanh, torch.sigmoid, lambda x: x]


@few_models
@given(
    seed=st.integers(0, 2**16),
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    biases=st.lists(st.booleans(), min_size=6, max_size=6),
    acts=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    second=st.lists(st.booleans(), min_size=6, max_size=6),
    shared=st.booleans(),
    batch=st.integers(2, 5),
)
def test_any_parallel_layers_stay_within_rounding(
    seed: int, widths: list[int], biases: list[bool], acts: list[int], second: list[bool], shared: bool, batch: int
) -> None:
    def body(m: nn.Module, x: Tensor) -> list[Tensor]:
        found = []
        for i, layer in enumerate(m.first):
            y = ACTIVATIONS[acts[i]](layer(x if shared or i % 2 else x.sin()))
            found.append(m.second[i](y).relu() if second[i] else y)
        return found

    torch.manual_seed(seed)
    first = nn.ModuleList(nn.Linear(K, w, bias=b) for w, b in zip(widths, biases, strict=False))
    then = nn.ModuleList(nn.Linear(w, 3, bias=not b) for w, b in zip(widths, biases, strict=False))
    model = Function(body, first=first, second=then)
    program = capture(model, (torch.randn(batch, K),), check=False)
    before = Pipeline("canonicalize,merge-duplicates").run(program).program
    result = run("fuse-parallel-linears", before)
    verify_numeric(before, result.program, Exactness.REASSOC)
    assert run("fuse-parallel-linears", result.program).records[0].fired == 0
    if shared and len(widths) > 1:
        assert operators(result.program)["aten.linear"] <= 1 + sum(second)


def test_random_graphs() -> None:
    assert_pass_preserves("fuse-parallel-linears", max_examples=25)
