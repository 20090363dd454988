"""Special rows of an int8 layer's input, at every instruction-set level: NaN, infinities, zeros, denormals, the largest numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, generator, lower_everywhere, needs_kernels, partition, program_of, relaxed, seeds
from torch.nn import functional

from recfx.formats.per_channel import MOST_COLUMNS
from recfx.ops import cross, mlp
from recfx.ops.mlp import quantize_rows
from recfx.runtime.flat import flat_function

pytestmark = needs_kernels

Layer = Callable[..., torch.Tensor]
_LARGEST, _SMALLEST = torch.finfo(torch.float32).max, 2.0**-149


def _layer(input_scale: float = 0.0, activation: str = "none", factor: int = -1) -> Layer:
    layer = mlp.Layer(0, 1, 2, activation=activation, input_scale=input_scale, factor=factor)
    ints, numbers = mlp.encode([layer])
    return lambda x, *params: torch.ops.recfx.mlp(x, list(params), ints, numbers)


def _weights(n: int, k: int, seed: int) -> list[torch.Tensor]:
    rng = generator(seed)
    weight = torch.randint(-127, 128, (n, k), generator=rng).to(torch.int8)
    weight[:, ::3] = 0
    return [weight, torch.randn(n, generator=rng), torch.rand(n, generator=rng) / 100 + 0.001]


def _dequantized(x: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    weight, bias, scale = state
    return functional.linear(x, weight.float() * scale.unsqueeze(1), bias)


def _same_kind(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors hold NaN and both infinities at the same places."""
    return all(torch.equal(kind(found), kind(expected)) for kind in (torch.isnan, torch.isposinf, torch.isneginf))


@pytest.mark.parametrize("input_scale", [0.0, 0.05])
@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("k", [1, 5, 64, 131])
def test_infinities_and_nan(k: int, input_scale: float, factors: bool) -> None:
    """A row's product is NaN and infinite where the float32 product with the dequantised weights is; other rows keep their bits."""
    x, state = torch.randn(40, k, generator=generator(k)), _weights(19, k, k)
    held = [*state, torch.exp2(-torch.arange(k).float() % 9)] if factors else state
    layer = _layer(input_scale, factor=3 if factors else -1)
    clean = x.clone()
    rows = torch.arange(0, 40, 3)
    for number, row in enumerate(rows):
        values = (math.nan, math.inf, -math.inf)
        x[row, (number * 7) % k] = values[number % 3]
        if number >= 6:
            x[row, (number * 5 + 1) % k] = values[(number // 3) % 3]
    expected = _dequantized(x, state)
    assert _same_kind(layer(x, *held), expected)
    others = [i for i in range(40) if i not in rows]
    for run in lower_everywhere(layer, [x], held):
        (found,), (without,) = run(x), run(clean)
        assert _same_kind(found[rows], expected[rows])
        assert torch.equal(found[others], without[others])
        assert bool(without.isfinite().all())


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "gelu", "silu"])
def test_what_follows_the_product_keeps_nan(activation: str) -> None:
    x, state = torch.randn(4, 33, generator=generator(0)), _weights(17, 33, 1)
    x[1, 4] = math.nan
    for run in lower_everywhere(_layer(activation=activation), [x], state):
        (found,) = run(x)
        assert bool(found[1].isnan().all())
        assert bool(found[[0, 2, 3]].isfinite().all())


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_rows_of_zeros_give_the_bias(zero: float) -> None:
    x, state = torch.full((3, 20), zero), _weights(35, 20, 2)
    x[1] = torch.randn(20, generator=generator(3))
    for run in lower_everywhere(_layer(), [x], state):
        (found,) = run(x)
        assert torch.equal(found[0], state[1])
        assert torch.equal(found[2], state[1])


@relaxed
@given(st.data())
def test_tiny_and_huge_rows(data: st.DataObject) -> None:
    """Their error is that of their integers: half a unit of the scale for each number."""
    seed, k = data.draw(seeds), data.draw(st.integers(1, 70))
    size = data.draw(
        st.sampled_from([_LARGEST, _LARGEST / 200, 2.0**-120, 2.0**-126, 1e-39, 1e-41, 300 * _SMALLEST, 3 * _SMALLEST])
    )
    x = torch.rand(3, k, generator=generator(seed)) * size
    if data.draw(st.booleans()):
        x = x * torch.where(torch.rand(3, k, generator=generator(seed + 1)) < 0.5, -1.0, 1.0)
    x[0, 0] = size
    weight, _, scale = _weights(9, k, seed % 1000)
    state = [weight, torch.zeros(9), scale]
    exact = x.double() @ (weight.double() * scale.double().unsqueeze(1)).T
    levels = torch.where((x < 0).any(1), 127.0, 255.0).double()
    unit = (x.abs().amax(1).double() / levels).clamp(min=_SMALLEST)
    most = (weight.double().abs() * scale.double().unsqueeze(1)).sum(1)
    integers = 0.51 * unit.unsqueeze(1) * most * torch.where(unit < 2.0**-126, 3.0, 1.0).unsqueeze(1)
    allowed = integers + exact.abs() * 1e-5 + 4 * _SMALLEST
    for found in (_layer()(x, *state), *(run(x)[0] for run in lower_everywhere(_layer(), [x], state))):
        fits = exact.abs() < _LARGEST * 0.99
        assert bool(((found.double() - exact).abs() <= allowed)[fits].all())
        assert not bool(found.isnan().any())


@relaxed
@given(st.data())
def test_the_reference_agrees_on_small_scales(data: st.DataObject) -> None:
    """Rows about as small as float32 holds give the same integers and scales in the reference and in every kernel."""
    k, exponent = data.draw(st.integers(1, 40)), data.draw(st.integers(-149, -110))
    x = torch.randn(5, k, generator=generator(data.draw(seeds))) * 2.0**exponent
    state = _weights(7, k, k)
    codes, scale = quantize_rows(x)
    assert float(codes.abs().max()) <= 255
    assert bool(scale.isfinite().all())
    for run in lower_everywhere(_layer(), [x], state):
        torch.testing.assert_close(run(x)[0], _layer()(x, *state), rtol=1e-6, atol=0)


def test_cross_layers() -> None:
    """Full and low-rank cross layers of int8 matrices, whose inner product is quantised again."""
    x = torch.randn(6, 12, generator=generator(5))
    full, bias, scale = _weights(12, 12, 6)
    inner, _, inner_scale = _weights(4, 12, 7)
    outer, _, outer_scale = _weights(12, 4, 8)
    state = [full, bias, scale, inner, inner_scale, outer, outer_scale]
    x[2, 3], x[4, 0] = math.nan, math.inf
    for layer in (
        cross.CrossLayer(cross.FULL, 0, 1, scale=2),
        cross.CrossLayer(cross.LOW_RANK, 5, 1, 3, scale=6, inner_scale=4),
    ):
        encoded = cross.encode([layer])

        def crossed(x: torch.Tensor, *params: torch.Tensor, encoded: list[int] = encoded) -> torch.Tensor:
            return torch.ops.recfx.cross(x, x, list(params), encoded)

        expected = crossed(x, *state)
        assert bool(expected[2].isnan().all())
        assert not bool(expected[4].isfinite().any())
        for run in lower_everywhere(crossed, [x], state):
            (found,) = run(x)
            assert _same_kind(found, expected)
            assert bool(found[[0, 1, 3, 5]].isfinite().all())


def test_chains() -> None:
    """NaN goes through a chain of int8 layers, an infinity as far as the activations let it."""
    first, second = _weights(40, 30, 9), _weights(8, 40, 10)
    ints, numbers = mlp.encode([mlp.Layer(0, 1, 2, activation="relu"), mlp.Layer(3, 4, 5)])

    def chain(x: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        return torch.ops.recfx.mlp(x, list(params), ints, numbers)

    x, state = torch.randn(5, 30, generator=generator(11)), [*first, *second]
    x[0, 7], x[3, 1] = math.nan, math.inf
    expected = _dequantized(torch.relu(_dequantized(x, first)), second)
    for run in lower_everywhere(chain, [x], state):
        (found,) = run(x)
        assert _same_kind(found[[0, 3]], expected[[0, 3]])
        assert bool(found[[1, 2, 4]].isfinite().all())


@pytest.mark.parametrize("k", [1, 6, 33])
def test_bfloat16_layers(k: int) -> None:
    """NaN of every payload stays NaN, also where only its last bits are set; numbers that round beyond bfloat16 become
    infinite as in torch."""
    payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    x = torch.randn(6, k, generator=generator(k))
    x[:4, 0], x[4, 0] = payloads, _LARGEST
    weight = torch.randn(18, k, generator=generator(k + 1)).bfloat16()
    ints, numbers = mlp.encode([mlp.Layer(0)])

    def layer(x: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        return torch.ops.recfx.mlp(x, list(params), ints, numbers)

    for run in lower_everywhere(layer, [x], [weight]):
        (found,) = run(x)
        assert bool(found[:4].isnan().all())
        assert torch.equal(found[4].isinf(), torch.ones(18, dtype=torch.bool))
        assert bool(found[5].isfinite().all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("code", [127, -127, -128])
def test_the_longest_sums_of_the_largest_products_are_exact(code: int, sign: float) -> None:
    """Sums over this number of columns fit in 32 bits, also at levels that add an offset to the inputs to store them as
    bytes."""
    x, ones = torch.full((2, MOST_COLUMNS), sign), torch.ones(17)
    weight = torch.full((17, MOST_COLUMNS), code, dtype=torch.int8)
    for run in lower_everywhere(_layer(), [x], [weight, torch.zeros(17), ones]):
        torch.testing.assert_close(run(x)[0], torch.full((2, 17), sign * code * MOST_COLUMNS), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_longer_sums_stay_with_torch(level: str) -> None:
    columns = MOST_COLUMNS + 1
    x, state = torch.ones(2, columns), [torch.full((3, columns), 127, dtype=torch.int8), torch.zeros(3), torch.ones(3)]
    made = partition(program_of(_layer(), [x], state), level)
    assert any("can overflow" in reason for reason in made.refused.values())
    torch.testing.assert_close(flat_function(made.region)(x)[0], torch.full((2, 3), 127.0 * columns), rtol=1e-6, atol=0)
