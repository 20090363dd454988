"""Products by matrix instructions: every number of rows, columns and inputs around the sizes of tiles, against other levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, generator, lower, program_of, relaxed, seeds

from recfx.ops import mlp

pytestmark = pytest.mark.skipif("amx" not in LEVELS, reason="this processor has no matrix instructions")

TILE = 16
#: Around one tile, two and four; 4096 bfloat16 numbers are the longest sum that is not split.
EDGES = st.sampled_from([1, 2, TILE - 1, TILE, TILE + 1, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100])
INPUTS = st.sampled_from([1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 129, 200, 4095, 4097, 5000])


def _layer(*positions: int, activation: str = "none") -> Callable[..., torch.Tensor]:
    ints, numbers = mlp.encode([mlp.Layer(*positions, activation=activation)])
    return lambda x, *params: torch.ops.recfx.mlp(x, list(params), ints, numbers)


def _runs(
    layer: Callable[..., torch.Tensor], x: torch.Tensor, state: Sequence[torch.Tensor]
) -> dict[str, Callable[..., Sequence[torch.Tensor]]]:
    """The layer with tiles, and on vectors with the same instructions otherwise."""
    program = program_of(layer, [x], list(state))
    return {level: lower(program, level) for level in ("amx", "avx512_bf16")}


@relaxed
@given(EDGES, INPUTS, EDGES, st.sampled_from(["none", "relu", "gelu"]), st.booleans(), seeds)
def test_integers_are_those_of_vectors(rows: int, k: int, n: int, activation: str, positive: bool, seed: int) -> None:
    rng = generator(seed)
    x = torch.randn(max(rows, 2), k, generator=rng)
    x = x.abs() if positive else x
    weight = torch.randint(-127, 128, (n, k), generator=rng).to(torch.int8)
    state = [weight, torch.rand(n, generator=rng) + 0.01, torch.randn(n, generator=rng)]
    runs = _runs(_layer(0, 2, 1, activation=activation), x, state)
    (tiles,), (vectors,) = runs["amx"](x[:rows]), runs["avx512_bf16"](x[:rows])
    torch.testing.assert_close(tiles, vectors, rtol=0, atol=0)


@relaxed
@given(EDGES, INPUTS, EDGES, seeds)
def test_bfloat16_does_not_depend_on_the_batch(rows: int, k: int, n: int, seed: int) -> None:
    """And is as near to float64 as a sum of float32 may be."""
    rng = generator(seed)
    x, weight = torch.randn(max(rows, 2), k, generator=rng), torch.randn(n, k, generator=rng).bfloat16()
    run = _runs(_layer(0), x, [weight])["amx"]
    (found,) = run(x[:rows])
    rounded, exact = x[:rows].bfloat16().double(), weight.double()
    bound = (rounded.abs() @ exact.abs().T) * k * 2.0**-24 + 1e-30
    assert bool(((found - rounded @ exact.T).abs() <= bound).all())
    for row in {0, rows // 2, rows - 1}:
        torch.testing.assert_close(run(x[row : row + 1])[0][0], found[row], rtol=0, atol=0)


@pytest.mark.parametrize("k", [1, 33, 64, 4097])
@pytest.mark.parametrize("rows", [1, 3, 17, 40])
def test_infinities_and_nan_stay_in_their_rows(k: int, rows: int) -> None:
    """What a longer call or another model left behind the end of a row is not read: a call with special values comes before."""
    x, weight = torch.randn(40, k, generator=generator(k)), torch.randn(19, k, generator=generator(rows)).bfloat16()
    run = _runs(_layer(0), x, [weight])["amx"]
    (clean,) = run(x[:rows])
    special = x.clone()
    special[1::2, -1] = math.nan
    special[0::4, 0] = math.inf
    run(torch.full_like(x, math.nan))
    (found,) = run(special[:rows])
    for row in range(rows):
        expected = special[row].bfloat16().float() @ weight.float().T
        assert torch.equal(found[row].isnan(), expected.isnan())
        assert torch.equal(found[row].isinf(), expected.isinf())
        if row % 4 == 2:
            torch.testing.assert_close(found[row], clean[row], rtol=0, atol=0)
    torch.testing.assert_close(run(x[:rows])[0], clean, rtol=0, atol=0)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shape", [(70, 4500, 40), (3, 200, 300), (200, 64, 20)])
def test_threads_share_rows_or_panels(shape: tuple[int, int, int], count: int, threads: Callable[[int], None]) -> None:
    rows, k, n = shape
    x, weight = torch.randn(rows, k, generator=generator(k)), torch.randn(n, k, generator=generator(n)).bfloat16()
    run = _runs(_layer(0), x, [weight])["amx"]
    threads(1)
    (alone,) = run(x)
    threads(count)
    torch.testing.assert_close(run(x)[0], alone, rtol=0, atol=0)
