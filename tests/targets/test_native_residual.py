"""Sums of a product and another tensor are one step where the product can add the tensor, at every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, drawn, generator, lower_everywhere, needs_kernels, partition, program_of, relaxed, seeds
from torch.nn import functional

from recfx.kernels.codes import Kind
from recfx.ops import mlp

pytestmark = needs_kernels
_B, _L, _D = 3, 5, 8
linear = functional.linear


def kinds(function: Callable[..., Any], inputs: list[torch.Tensor], state: list[torch.Tensor]) -> list[Kind]:
    """The steps of a function whose result goes through a softmax, so that it is not copied to an output."""
    made = partition(program_of(lambda *given: torch.softmax(function(*given), -1), inputs, state), LEVELS[0])
    plans = [node.target.plan for node in made.region.graph.nodes if hasattr(node.target, "plan")]
    return [step.kind for plan in plans for step in plan.steps]


def check(function: Callable[..., Any], inputs: list[torch.Tensor], state: list[torch.Tensor]) -> None:
    """Whole numbers, so that every level gives torch's bits."""
    expected = function(*inputs, *state)
    for run in lower_everywhere(function, inputs, state):
        assert torch.equal(run(*inputs)[0], expected)


def whole(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-4, 5, sizes, generator=generator(seed)).float()


_INTS, _NUMBERS = mlp.encode([mlp.Layer(0, 1, activation="relu", number=0.0)])
#: Name -> a sum of x [B, L, D] or another tensor and a product with w [D, D] and b [D].
ADDED: dict[str, Callable[..., torch.Tensor]] = {
    "behind": lambda x, w, b: x + linear(x, w, b),
    "in front": lambda x, w, b: linear(x, w) + x,
    "an activation before": lambda x, w, b: x + torch.ops.recfx.mlp(x, [w, b], _INTS, _NUMBERS),
    "rows with gaps": lambda x, w, b: x[:, 0] + linear(x[:, 1], w, b),
    "both products": lambda x, w, b: linear(x, w) + linear(-x, w, b),
}
#: Name -> a sum that stays a step of its own.
APART: dict[str, Callable[..., torch.Tensor]] = {
    "the product is read again": lambda x, w, b: (y := linear(x, w, b)) + x + y.abs(),
    "a row for all": lambda x, w, b: linear(x, w) + b,
    "a constant of the same size": lambda x, w, b: linear(x, w) + torch.stack([w[:5]]),
    "twice the other": lambda x, w, b: torch.add(linear(x, w), x, alpha=2),
    "in other heads": lambda x, w, b: linear(x, w).reshape(-1, 5, 2, 4) + x.reshape(-1, 5, 2, 4),
    "turned": lambda x, w, b: linear(x, w)[:, :, :5].mT + x[:, :, :5],
    "a part of the product": lambda x, w, b: linear(x, w)[:, 1:] + x[:, 1:],
    "the same product": lambda x, w, b: (y := linear(x, w)) + y,
}


@pytest.mark.parametrize("name", ADDED)
def test_the_product_adds(name: str) -> None:
    inputs, state = [whole(_B, _L, _D)], [whole(_D, _D, seed=1), whole(_D, seed=2)]
    check(ADDED[name], inputs, state)
    found = kinds(ADDED[name], inputs, state)
    assert found[-2:] == [Kind.GEMM, Kind.SOFTMAX], found


@pytest.mark.parametrize("name", APART)
def test_the_sum_stays_apart(name: str) -> None:
    inputs, state = [whole(_B, _L, _D)], [whole(_D, _D, seed=1), whole(_D, seed=2)]
    check(APART[name], inputs, state)
    assert Kind.POINTWISE in kinds(APART[name], inputs, state)


@relaxed
@given(st.data())
def test_stacks_of_residual_layers(data: st.DataObject) -> None:
    """Of any size, with a batch of one row as well, and with the same weight in all layers."""
    rng, width, depth = data.draw(seeds), drawn(data, 1, 40), data.draw(st.integers(1, 3))
    x = whole(drawn(data, 2, 20), width, seed=rng)
    w = torch.randint(-1, 2, (width, width), generator=generator(rng)).float()

    def stack(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for layer in range(depth):
            x = x + linear(x, w) if layer % 2 else linear(x, w) + x
        return x

    for run in lower_everywhere(stack, [x], [w]):
        assert torch.equal(run(x)[0], stack(x, w))
        assert torch.equal(run(x[:1])[0], stack(x[:1], w))
