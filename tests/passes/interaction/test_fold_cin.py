"""fold-cin: layers of an interaction network without activation go into the linear behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, check_does_not_fire, default_program, operators, program_of, run
from torch.nn import functional

from recfx.capture import capture
from recfx.ir import Exactness, Program, verify_numeric
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pipeline

M, D = 4, 5
X = (torch.randn(3, M, D),)
XF = (*X, torch.randn(3, 2))


def fused(body: Callable[..., Any], inputs: tuple[torch.Tensor, ...] = X, **state: Any) -> Program:
    """A program whose layers are operators."""
    program = program_of(Case(lambda: Function(body, **state), inputs))
    return Pipeline("canonicalize,fold-constants,fuse-cin").run(program).program


def layer(x: torch.Tensor, x0: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    z = torch.einsum("bhd,bmd->bhmd", x, x0).reshape(x.shape[0], x.shape[1] * x0.shape[1], D)
    return functional.conv1d(z, w[..., None], b)


def weights(*widths: int, bias: bool = False) -> dict[str, torch.Tensor]:
    """Weights of layers of the given widths."""
    found, maps = {}, M
    for number, width in enumerate(widths):
        found[f"w{number}"] = torch.randn(width, maps * M) / 3
        if bias:
            found[f"b{number}"] = torch.randn(width)
        maps = width
    return found


def network(m: Any, x: torch.Tensor, depth: int, *, activated: int = -1) -> list[torch.Tensor]:
    """The maps of each layer; the layer `activated` has a ReLU."""
    found, maps = [], x
    for number in range(depth):
        maps = layer(maps, x, getattr(m, f"w{number}"), getattr(m, f"b{number}", None))
        maps = maps.relu() if number == activated else maps
        found.append(maps)
    return found


def pooled(maps: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([v.sum(2) for v in maps], 1)


def head(width: int, outputs: int = 1) -> torch.nn.Linear:
    return torch.nn.Linear(width, outputs)


WIDE, WIDTHS = 23, (9, 8, 6)

#: Name -> (function, inputs, state, layers that remain).
FOLDS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], dict[str, Any], int]] = {
    "three layers": (lambda m, x: m.l(pooled(network(m, x, 3))), X, {"l": head(WIDE), **weights(*WIDTHS)}, 2),
    "with biases": (lambda m, x: m.l(pooled(network(m, x, 3))), X, {"l": head(WIDE), **weights(*WIDTHS, bias=True)}, 2),
    "joined, then summed": (
        lambda m, x: m.l(torch.cat(network(m, x, 3), 1).sum(-1)), X, {"l": head(WIDE), **weights(*WIDTHS, bias=True)}, 2
    ),
    "only the last": (lambda m, x: m.l(network(m, x, 3)[2].sum(2)), X, {"l": head(6), **weights(*WIDTHS)}, 2),
    "two layers": (lambda m, x: m.l(pooled(network(m, x, 2))), X, {"l": head(17), **weights(9, 8)}, 1),
    "one layer": (lambda m, x: m.l(network(m, x, 1)[0].sum(2)), X, {"l": head(9), **weights(9)}, 0),
    "beside other features": (
        lambda m, x, f: m.l(torch.cat([f, pooled(network(m, x, 3))], 1)), XF, {"l": head(WIDE + 2), **weights(*WIDTHS)}, 2
    ),
    "behind other features": (
        lambda m, x, f: m.l(torch.cat([pooled(network(m, x, 2)), f.relu()], 1)), XF, {"l": head(19), **weights(9, 8, bias=True)}, 1
    ),
    "an activation before the last": (
        lambda m, x: m.l(pooled(network(m, x, 3, activated=1))), X, {"l": head(WIDE), **weights(*WIDTHS)}, 2
    ),
    "an activation in the first": (
        lambda m, x: m.l(pooled(network(m, x, 3, activated=0))), X, {"l": head(WIDE), **weights(*WIDTHS)}, 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    body, inputs, state, remaining = FOLDS[name]
    program = fused(body, inputs, **state)
    result = run("fold-cin", program)
    assert result.records[0].fired == 1, result.records[0].misses
    assert operators(result.program)["recfx.cin"] == remaining
    verify_numeric(program, result.program, Exactness.REASSOC, special=False)
    assert run("fold-cin", result.program).records[0].fired == 0


def test_halves_of_the_maps() -> None:
    """deepctr-torch gives one half of a layer's maps to the next layer and sums the other."""

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        first, second = layer(x, x, m.w0).split([3, 5], 1)
        return m.l(torch.cat([second, layer(first, x, m.w1)], 1).sum(2))

    state = {"w0": torch.randn(8, M * M), "w1": torch.randn(6, 3 * M), "l": head(11)}
    program = fused(body, **state)
    result = run("fold-cin", program)
    assert result.records[0].fired == 1
    assert operators(result.program)["recfx.cin"] == 1
    verify_numeric(program, result.program, Exactness.REASSOC, special=False)


def test_a_sum_that_something_else_reads_is_taken_first() -> None:
    program = fused(lambda m, x: pooled(network(m, x, 2)).relu(), **weights(6, 7, bias=True))
    result = run("fold-cin", program)
    assert result.records[0].fired == 1
    assert operators(result.program)["recfx.cin"] == 1
    verify_numeric(program, result.program, Exactness.REASSOC, special=False)


def test_a_kept_dimension_stays() -> None:
    program = fused(lambda m, x: network(m, x, 1)[0].sum(2, keepdim=True), **weights(6))
    result = run("fold-cin", program).program
    assert operators(result)["recfx.cin"] == 0
    verify_numeric(program, result, Exactness.REASSOC, special=False)


LEAVES_ALONE: dict[str, tuple[Callable[..., Any], dict[str, Any], str | None]] = {
    "an activation": (lambda m, x: m.l(network(m, x, 1, activated=0)[0].sum(2)), {"l": head(6), **weights(6)}, "activation"),
    "maps read elsewhere": (
        lambda m, x: (lambda v: m.l(v.sum(2)) + v.amax((1, 2))[:, None])(network(m, x, 1)[0]), {"l": head(6), **weights(6)},
        "read elsewhere",
    ),
    "a sum over the maps": (lambda m, x: m.l(network(m, x, 1)[0].sum(1)), {"l": head(D), **weights(6)}, None),
    "a maximum": (lambda m, x: m.l(network(m, x, 1)[0].amax(2)), {"l": head(6), **weights(6)}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, state, reason = LEAVES_ALONE[name]
    program = fused(body, **state)
    (record,) = run("fold-cin", program).records
    assert record.fired == 0
    reasons = [miss.reason for miss in record.misses]
    assert reasons == [] if reason is None else any(reason in found for found in reasons)


def test_a_linear_with_several_outputs_takes_only_the_sum() -> None:
    program = fused(lambda m, x: m.l(network(m, x, 1)[0].sum(2)), l=head(6, 2), **weights(6))
    result = run("fold-cin", program)
    assert [r.rule for r in result.rewrites] == ["sum-first"]
    assert any("several outputs" in miss.reason for miss in result.records[0].misses)


def test_a_program_without_layers_is_left_alone() -> None:
    check_does_not_fire("fold-cin", Case(lambda: Function(lambda m, x: m.l(x.sum(2)), l=head(M)), X, reason=None))


def test_models_of_the_zoo() -> None:
    program = Pipeline("fuse-cin").run(default_program("XDeepFM", 4)).program
    result = run("fold-cin", program).program
    assert operators(result)["recfx.cin"] == 2
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**16),
    widths=st.lists(st.integers(2, 8), min_size=1, max_size=4),
    bias=st.booleans(),
    activated=st.integers(-1, 3),
    shared=st.booleans(),
    rows=st.integers(2, 4),
)
def test_any_network_keeps_its_meaning(
    seed: int, widths: list[int], bias: bool, activated: int, shared: bool, rows: int
) -> None:
    """Any depth, with an activation somewhere or nowhere, tied weights, and the default pipeline behind the pass."""
    torch.manual_seed(seed)
    widths = [widths[0]] * len(widths) if shared else widths
    state: dict[str, Any] = weights(*widths, bias=bias)
    if shared and len(widths) > 2:
        state["w2"] = state["w1"]
    state["l"] = head(sum(widths))
    body = lambda m, x: m.l(pooled(network(m, x, len(widths), activated=activated)))  # noqa: E731
    model = Function(body, **state)
    program = capture(model, (torch.randn(rows, M, D),))
    result = Pipeline(f"{DEFAULT_PIPELINE},fuse-cin,fold-cin").run(program).program
    verify_numeric(program, result, Exactness.REASSOC, special=False)
