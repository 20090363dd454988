"""Attention over nothing: queries whose mask hides every key, at every instruction-set level.

torch's operator gives zeros for such a query; a softmax that a model writes by hand gives NaN, and so must its kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import (
    LEVELS,
    drawn,
    generator,
    lower,
    lower_everywhere,
    needs_kernels,
    partition,
    program_of,
    relaxed,
    seeds,
)
from torch import nn
from torch.nn import functional

import recfx
from recfx.capture import capture
from recfx.ops import attention, mlp
from recfx.passes import FUSED, default_pipeline
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function

pytestmark = needs_kernels

INF, NAN = float("inf"), float("nan")


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within a few last bits; NaN and zeros at the same positions."""
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5, equal_nan=True)


def masks(rng: torch.Generator, batch: int, queries: int, keys: int) -> torch.Tensor:
    """Boolean masks [batch, 1, queries, keys]. The first row of each sequence sees no key, and no row of one sequence does."""
    mask = torch.rand(batch, 1, queries, keys, generator=rng) < 0.5
    mask[:, :, 0] = False
    mask[0] = False
    mask[-1, :, -1] = True
    return mask


@relaxed
@given(st.data())
def test_rows_without_a_key_are_zero(data: st.DataObject) -> None:
    """For masks of booleans and of numbers, and any number of keys."""
    rng = generator(data.draw(seeds))
    batch, heads, queries, keys = drawn(data, 2, 3), drawn(data, 1, 2), drawn(data, 1, 9), drawn(data, 1, 70)
    q, k = (torch.randn(batch, heads, n, 8, generator=rng) for n in (queries, keys))
    v = torch.randn(batch, heads, keys, drawn(data, 1, 9), generator=rng)
    mask = masks(rng, batch, queries, keys)
    if data.draw(st.booleans()):
        mask = torch.zeros(mask.shape).masked_fill(~mask, -INF) + torch.randn(mask.shape, generator=rng)
    runs = lower_everywhere(functional.scaled_dot_product_attention, [q, k, v, mask])
    expected = functional.scaled_dot_product_attention(q, k, v, mask)
    assert not expected[0].any()
    for run in runs:
        (found,) = run(q, k, v, mask)
        same(found, expected)
        assert not found[0].any()


def _scores_of_nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> None:
    k.fill_(-INF), q.abs_()


def _nan_query(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> None:
    q[:, :, 0, 0] = NAN


def _nan_key(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> None:
    k[:, :, 2, 0] = NAN


def _infinite_key(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> None:
    k[:, :, 2], q[...] = INF, q.abs()


def _nan_value(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> None:
    v[:, :, 2, 0] = NAN


def _nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> None:
    pass


#: Name -> function that puts special values into q, k, v and the boolean mask.
SPECIAL: dict[str, Callable[..., None]] = {
    "nothing": _nothing,
    "scores of -inf": _scores_of_nothing,
    "a query of NaN": _nan_query,
    "a key of NaN": _nan_key,
    "an infinite key": _infinite_key,
    "a value of NaN": _nan_value,
}


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values_under_a_mask(name: str, numbers: bool) -> None:
    """A hidden key of NaN is not hidden, as in torch: masks are added to the scores."""
    rng = generator(11)
    q, k, v = (torch.randn(3, 2, 5, 8, generator=rng) for _ in range(3))
    mask = masks(rng, 3, 5, 5)
    SPECIAL[name](q, k, v, mask)
    given_mask = torch.zeros(mask.shape).masked_fill(~mask, -INF) if numbers else mask
    expected = functional.scaled_dot_product_attention(q, k, v, given_mask)
    for run in lower_everywhere(functional.scaled_dot_product_attention, [q, k, v, given_mask]):
        same(run(q, k, v, given_mask)[0], expected)


@pytest.mark.parametrize("length", [3, 20])
@pytest.mark.parametrize("name", sorted(set(SPECIAL) - {"a query of NaN"}))
def test_special_values_in_causal_order(name: str, length: int) -> None:
    """A later key of NaN or infinity does not reach an earlier query. (The result of torch for a query of NaN depends on its place.)"""
    rng = generator(12)
    q, k, v = (torch.randn(2, 2, length, 8, generator=rng) for _ in range(3))
    SPECIAL[name](q, k, v, None)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    for run in lower_everywhere(attend, [q, k, v]):
        same(run(q, k, v)[0], attend(q, k, v))


#: Softmaxes written by hand, of scores [B, L] and a mask [B, L] that hides all of some rows.
BY_HAND: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "filled": lambda x, m: torch.softmax(x.masked_fill(~m, -INF), -1),
    "added": lambda x, m: torch.softmax(x + torch.where(m, 0.0, -INF), -1),
    "over an inner axis": lambda x, m: torch.softmax(x.masked_fill(~m, -INF)[:, :, None].expand(-1, -1, 3), 1),
    "weighted": lambda x, m: (torch.softmax(x.masked_fill(~m, -INF), -1)[:, None] @ x[:, :, None])[:, 0],
    "by exponentials": lambda x, m: (x.exp() * m) / (x.exp() * m).sum(-1, keepdim=True),
    "filled with the least number": lambda x, m: torch.softmax(x.masked_fill(~m, torch.finfo(torch.float32).min), -1),
    "and its NaN replaced": lambda x, m: torch.where(
        m.any(1, keepdim=True), torch.softmax(x.masked_fill(~m, -INF), -1), 0.0
    ),
}


@pytest.mark.parametrize("length", [1, 5, 16, 17, 70])
@pytest.mark.parametrize("name", BY_HAND)
def test_softmaxes_by_hand_keep_their_nan(name: str, length: int) -> None:
    rng = generator(13)
    x, mask = torch.randn(4, length, generator=rng), torch.rand(4, length, generator=rng) < 0.6
    mask[1], mask[2] = False, True
    program = program_of(BY_HAND[name], [x, mask])
    for level in LEVELS:
        same(flat_function(partition(program, level).region)(x, mask)[0], BY_HAND[name](x, mask))


class Histories(nn.Module):
    """Self-attention over histories that are padded on the left, as in sequence models."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.items = nn.Embedding(20, 8, padding_idx=0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.need_weights = need_weights

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.items(ids)
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        found, _ = self.attention(x, x, x, key_padding_mask=ids == 0, attn_mask=causal, need_weights=self.need_weights)
        return x + found


def histories(batch: int) -> torch.Tensor:
    """Ids [batch, 6], padded on the left; the second history is one item, the third is empty."""
    ids = torch.arange(batch * 6).remainder(19).reshape(batch, 6) + 1
    ids[1, :5] = 0
    if batch > 2:
        ids[2] = 0
    return ids


def at_every_level(model: nn.Module, *example: torch.Tensor) -> list[Callable[..., tuple[Any, ...]]]:
    """A model after all default passes, lowered at every level."""
    plan = Pipeline(default_pipeline(requests=False, kernels=FUSED, precision="fp32"))
    program = plan.run(capture(model, example)).program
    return [flat_function(partition(program, level).region) for level in LEVELS]


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_over_empty_histories(need_weights: bool) -> None:
    """Zeros where it calls torch's operator, NaN where it multiplies by weights that it returns. The fast path of torch is not tested."""
    torch.manual_seed(3)
    model = Histories(need_weights).eval()
    example = torch.arange(24).reshape(4, 6).remainder(19) + 1
    for run in at_every_level(model, example):
        for batch in (2, 4):
            expected = model(histories(batch)).detach()  # with gradients, so that torch does not take its fast path
            same(run(histories(batch))[0], expected)
            assert bool(expected.isnan().any()) is need_weights


@pytest.mark.parametrize("last", ["sliced", "gathered"])
def test_one_position_of_an_empty_history(last: str) -> None:
    """Passes that compute only one position use one row of the mask, which may hide all keys."""
    torch.manual_seed(4)
    items, project = nn.Embedding(20, 8), nn.Linear(8, 24)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.project = items, project

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            q, k, v = self.project(self.items(ids)).unsqueeze(1).chunk(3, -1)
            seen = (ids != 0)[:, None, None, :] & torch.ones(6, 6, dtype=torch.bool).tril()
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).squeeze(1)
            if last == "sliced":
                return out[:, -1]
            at = (ids != 0).sum(1).sub(1).clamp(min=0)
            return out.gather(1, at[:, None, None].expand(-1, 1, 8)).squeeze(1)

    model = Encoder().eval()
    for run in at_every_level(model, torch.randint(1, 20, (4, 6))):
        (found,) = run(histories(4))
        same(found, model(histories(4)).detach())
        assert not found[2].any()


class Target(nn.Module):
    """Target attention in the manner of DIN, over the keys of a history."""

    def __init__(self, masked: str) -> None:
        super().__init__()
        self.items = nn.Embedding(30, 8)
        self.scores = nn.Sequential(nn.Linear(32, 6), nn.Sigmoid(), nn.Linear(6, 1))
        self.masked = masked

    def forward(self, target: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        keys, query = self.items(ids), self.items(target).unsqueeze(1).expand(-1, ids.shape[1], -1)
        scores = self.scores(torch.cat([query, keys, query - keys, query * keys], -1)).squeeze(-1)
        mask = ids != 0
        if self.masked == "softmax":
            scores = torch.softmax(scores.masked_fill(~mask, -INF), -1)
        elif self.masked == "softmax of the least":
            scores = torch.softmax(torch.where(mask, scores, torch.full_like(scores, -(2.0**32) + 1)), -1)
        else:
            scores = scores * mask
        return (scores.unsqueeze(1) @ keys).squeeze(1)


@pytest.mark.parametrize("masked", ["softmax", "softmax of the least", "times the mask"])
@pytest.mark.parametrize("length", [6, 20])
def test_target_attention_over_empty_histories(masked: str, length: int) -> None:
    torch.manual_seed(5)
    model = Target(masked).eval()
    target, ids = torch.arange(4) + 1, torch.randint(1, 30, (4, length))
    runs = at_every_level(model, target, ids)
    ids = ids.clone()
    ids[1], ids[2, 1:] = 0, 0
    expected = model(target, ids).detach()
    for run in runs:
        same(run(target, ids)[0], expected)
    assert bool(expected.isnan().any()) is (masked == "softmax")


def test_attention_runs_in_a_plan() -> None:
    """The tests above would also pass if torch ran all operators, so this one checks that kernels run them."""
    q = torch.randn(2, 2, 5, 8)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    lower(program_of(functional.scaled_dot_product_attention, [q, q + 1, q + 2, mask]))
    ids = torch.arange(12).reshape(2, 6) + 1
    report: Any = recfx.optimize(Histories(False).eval(), "native", example_inputs=ids, measure=False).report
    assert report.backend == ("native",)


@pytest.mark.parametrize("pool", [False, True], ids=["weights", "pooled"])
@pytest.mark.parametrize("softmax", [False, True], ids=["scores", "softmax"])
@pytest.mark.parametrize("parts", [["q"], ["k"], ["q-k"], ["q*k"], ["k", "q*k"], ["q", "k", "q-k", "q*k"]], ids=str)
def test_target_attention_ignores_nan_in_what_it_does_not_read(parts: list[str], softmax: bool, pool: bool) -> None:
    """An MLP over the keys alone gives numbers for a query of NaN, and one over the query alone for keys of NaN."""
    rng = generator(len(parts))
    layers, numbers = mlp.encode([mlp.Layer(0, 1, activation="sigmoid"), mlp.Layer(2)])
    numbered = [attention.PARTS.index(part) for part in parts]
    state = [torch.randn(s, generator=rng) for s in [(6, len(parts) * 5), (6,), (1, 6)]]

    def attend(query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        given = (list(params), layers, numbers, numbered, softmax, 1.0, attention.FILL, -7.0, pool)
        found: torch.Tensor = attention.target_attention(query, keys, mask, *given)
        return found

    query, keys = torch.randn(4, 5, generator=rng), torch.randn(4, 9, 5, generator=rng)
    mask = torch.rand(4, 9, generator=rng) < 0.7
    query[0, 2], query[1] = NAN, INF
    keys[2, 3, 1], keys[3, 4] = NAN, -INF
    expected = attend(query, keys, mask, *state)
    for run in lower_everywhere(attend, [query, keys, mask], state):
        (found,) = run(query, keys, mask)
        same(found[[0, 2]], expected[[0, 2]])
        if not ({"q-k", "q*k"} & set(parts)):  # differences of infinities depend on the order
            same(found, expected)
