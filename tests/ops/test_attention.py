"""Target attention's reference against its formula, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recfx.ops import attention, mlp

D, L = 3, 4


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
    weights: list[torch.Tensor],
    *,
    parts: tuple[str, ...] = ("q", "k", "q-k", "q*k"),
    softmax: bool = False,
    scale: float = 1.0,
    masking: int = attention.NO_MASK,
    fill: float = 0.0,
    pool: bool = True,
) -> torch.Tensor:
    layers, numbers = mlp.encode([mlp.Layer(0, 1, activation="sigmoid"), mlp.Layer(2)])
    numbered = [attention.PARTS.index(part) for part in parts]
    found: torch.Tensor = attention.target_attention(
        query, keys, mask, weights, layers, numbers, numbered, softmax, scale, masking, fill, pool
    )
    return found


def weights_for(parts: int, rng: torch.Generator) -> list[torch.Tensor]:
    return [torch.randn(s, generator=rng) for s in [(5, parts * D), (5,), (1, 5)]]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    parts=st.lists(st.sampled_from(attention.PARTS), min_size=1, max_size=5),
    softmax=st.booleans(),
    masking=st.sampled_from([attention.NO_MASK, attention.FILL, attention.ZERO, attention.FILL + attention.ZERO]),
    fill=st.sampled_from([0.0, -4294967295.0, torch.finfo(torch.float32).min]),
    scale=st.sampled_from([1.0, 0.5]),
    shared=st.booleans(),
)
def test_every_row_follows_the_formula(
    seed: int, parts: list[str], softmax: bool, masking: int, fill: float, scale: float, shared: bool
) -> None:
    assume(softmax or abs(fill) < 1e6)  # as weights, such fill values only overflow
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(2, D, generator=rng)
    keys = torch.randn(1 if shared else 2, L, D, generator=rng)
    mask = torch.rand(1 if shared else 2, L, generator=rng) < 0.6
    weights = weights_for(len(parts), rng)
    named = {"parts": tuple(parts), "softmax": softmax, "scale": scale, "masking": masking, "fill": fill}
    pooled = attend(query, keys, mask, weights, **named)  # type: ignore[arg-type]
    found = attend(query, keys, mask, weights, pool=False, **named)  # type: ignore[arg-type]
    for row in range(2):
        ks, kept = keys.expand(2, -1, -1)[row], mask.expand(2, -1)[row]
        scores = torch.empty(L)
        for at, k in enumerate(ks):
            q = query[row]
            values = {"q": q, "k": k, "q-k": q - k, "k-q": k - q, "q*k": q * k}
            x = torch.cat([values[part] for part in parts])
            scores[at] = scale * (weights[2] @ torch.sigmoid(weights[0] @ x + weights[1]))[0]
            if masking & attention.FILL and not kept[at]:
                scores[at] = fill
        wanted = scores.softmax(0) if softmax else scores
        wanted = wanted * kept if masking & attention.ZERO else wanted
        torch.testing.assert_close(found[row], wanted)
        torch.testing.assert_close(pooled[row], wanted @ ks, rtol=1e-4, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize(
    ("masking", "fill", "expected"),
    [
        (attention.ZERO, 0.0, "zeros"),
        (attention.FILL + attention.ZERO, torch.finfo(torch.float32).min, "zeros"),
        (attention.FILL, -4294967295.0, "mean"),
        (attention.FILL, -math.inf, "nan"),
    ],
)
def test_a_row_without_items(masking: int, fill: float, expected: str) -> None:
    rng = torch.Generator().manual_seed(0)
    query, keys = torch.randn(1, D, generator=rng), torch.randn(1, L, D, generator=rng)
    empty = torch.zeros(1, L, dtype=torch.bool)
    found = attend(query, keys, empty, weights_for(4, rng), softmax=True, masking=masking, fill=fill)
    wanted = {"zeros": torch.zeros(1, D), "mean": keys.mean(1), "nan": torch.full((1, D), torch.nan)}[expected]
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_its_fake_kernel_knows_both_shapes() -> None:
    rng = torch.Generator().manual_seed(0)
    for pool, wanted in ((True, (2, D)), (False, (2, L))):
        args = (torch.randn(2, D), torch.randn(1, L, D), None, weights_for(4, rng))
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
            assert attend(*args, pool=pool).shape == wanted
        assert attend(*args, pool=pool).shape == wanted
