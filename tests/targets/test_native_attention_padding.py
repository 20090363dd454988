"""Attention that leaves out keys which cannot change a result, and its place in memory, at every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, drawn, generator, lower_everywhere, needs_kernels, partition, program_of, relaxed, seeds
from torch.nn import functional

from recfx.kernels.codes import Kind

pytestmark = needs_kernels

INF, NAN = float("inf"), float("nan")
attend = functional.scaled_dot_product_attention


def padding(lengths: torch.Tensor, keys: int) -> torch.Tensor:
    """The mask [B, 1, 1, keys] of sequences with these lengths."""
    return (torch.arange(keys) < lengths[:, None])[:, None, None]


@relaxed
@given(st.data())
def test_padded_keys_of_any_length(data: st.DataObject) -> None:
    """With masks of booleans and of numbers, and values that are views with gaps between their rows."""
    rng = generator(data.draw(seeds))
    batch, heads, queries, keys = drawn(data, 2, 3), drawn(data, 1, 3), drawn(data, 1, 40), drawn(data, 1, 150)
    depth, columns = drawn(data, 1, 40), drawn(data, 1, 40)
    q, k = (torch.randn(batch, heads, n, depth, generator=rng) for n in (queries, keys))
    wide = torch.randn(batch, keys, heads, columns + data.draw(st.integers(0, 3)), generator=rng)
    mask = padding(torch.randint(0, keys + 1, (batch,), generator=rng), keys)
    if data.draw(st.booleans()):
        mask = torch.zeros(mask.shape).masked_fill(~mask, -INF)

    def apply(q: torch.Tensor, k: torch.Tensor, wide: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return attend(q, k, wide[..., :columns].transpose(1, 2), attn_mask=mask).transpose(1, 2).flatten(2)

    expected = apply(q, k, wide, mask)
    for run in lower_everywhere(apply, [q, k, wide, mask]):
        torch.testing.assert_close(run(q, k, wide, mask)[0], expected, rtol=2e-5, atol=2e-5, equal_nan=True)


def _put(tensor: int, number: float) -> Callable[..., None]:
    def put(*tensors: torch.Tensor) -> None:
        tensors[tensor][:, :, -1, 0] = number

    return put


#: What the last key, which the mask hides, holds -> function that puts it into (q, k, v).
HIDDEN: dict[str, Callable[..., None]] = {
    "a key of NaN": _put(1, NAN),
    "an infinite key": _put(1, INF),
    "a score that overflows": _put(1, 1e38),
    "a value of NaN": _put(2, NAN),
    "an infinite value": _put(2, INF),
    "a huge value": _put(2, 3e38),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_keys_that_change_the_result_stay(name: str) -> None:
    """-inf is added to a hidden score, and a weight of zero is multiplied by a hidden value: special numbers give NaN, as in torch."""
    rng = generator(3)
    q, k, v = (torch.randn(2, 2, 100, 8, generator=rng) for _ in range(3))
    q[..., 0] = q[..., 0].abs() + 20
    HIDDEN[name](q, k, v)
    mask = padding(torch.tensor([5, 99]), 100)
    expected = attend(q, k, v, attn_mask=mask)
    assert bool(expected.isnan().any()) is (name != "a huge value")
    for run in lower_everywhere(lambda q, k, v, mask: attend(q, k, v, attn_mask=mask), [q, k, v, mask]):
        torch.testing.assert_close(run(q, k, v, mask)[0], expected, rtol=2e-5, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("number", [0.0, NAN])
@pytest.mark.parametrize("length", [1, 33, 100])
def test_later_keys_of_causal_order(length: int, number: float) -> None:
    """Blocks of queries leave out all later keys, unless a later value is NaN."""
    rng = generator(4)
    q, k, v = (torch.randn(2, 2, length, 8, generator=rng) for _ in range(3))
    v[:, :, -1, 0] = number

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, is_causal=True)

    expected = torch.softmax((q @ k.mT * 8**-0.5).masked_fill(~torch.ones(length, length).tril().bool(), -INF), -1) @ v
    for run in lower_everywhere(causal, [q, k, v]):
        torch.testing.assert_close(run(q, k, v)[0], expected, rtol=2e-5, atol=2e-5, equal_nan=True)


def test_heads_that_are_put_together_are_not_copied() -> None:
    """The result is written in the order in which it is read, and in the plain order if it is read otherwise, too."""
    rng = generator(5)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=rng) for _ in range(3))

    def joined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v).transpose(1, 2).flatten(2)

    def both(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = attend(q, k, v)
        return found.transpose(1, 2).flatten(2), found.flatten(2)

    made = partition(program_of(joined, [q, k, v]), LEVELS[0])
    plans = [node.target.plan for node in made.region.graph.nodes if hasattr(node.target, "plan")]
    (step,) = [step for plan in plans for step in plan.steps if step.kind is Kind.ATTENTION]
    assert step.out.runs == ((3, 4), (5, 12), (4, 1))
    for function in (joined, both):
        expected = function(q, k, v)
        for run in lower_everywhere(function, [q, k, v]):
            found = run(q, k, v)
            for got, want in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
                torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
