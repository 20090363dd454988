"""int8 per output channel, 16 bits, and the progress bar of long conversions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.formats import quantize_per_channel, round_to_half


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 30)))
    weight = torch.randn(shape, generator=rng) ** draw(st.sampled_from([1, 3]))
    weight *= draw(st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
    if draw(st.booleans()):
        weight[0] = 0
    return weight


@given(weights())
def test_no_weight_is_further_off_than_half_a_step(weight: torch.Tensor) -> None:
    codes, scale = quantize_per_channel(weight)
    assert codes.dtype is torch.int8
    assert scale.dtype is torch.float32
    assert scale.shape == weight.shape[:1]
    assert int(codes.abs().max()) <= 127
    error = (codes.double() * scale.double()[:, None] - weight.double()).abs()
    assert bool((error <= scale.double()[:, None] * (0.5 + 1e-4)).all())


@given(weights())
def test_clipping_never_raises_the_squared_error(weight: torch.Tensor) -> None:
    weight = weight / weight.abs().max().clamp(min=1e-30)  # squares of 1e30 do not fit into float32

    def error(clip: bool) -> torch.Tensor:
        codes, scale = quantize_per_channel(weight, clip=clip)
        return (codes.double() * scale.double()[:, None] - weight.double()).square().sum(1)

    assert bool((error(True) <= error(False) * (1 + 1e-5)).all())


def test_clipping_helps_a_channel_of_many_small_weights_and_a_larger_one() -> None:
    weight = torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))
    weight[:, 0] = 6.0
    plain, clipped = (quantize_per_channel(weight, clip=c) for c in (False, True))
    errors = [(codes * scale[:, None] - weight).square().sum() for codes, scale in (plain, clipped)]
    assert errors[1] < 0.98 * errors[0]


def test_channels_of_zeros_keep_zeros() -> None:
    codes, scale = quantize_per_channel(torch.zeros(3, 4), clip=True)
    assert codes.count_nonzero() == 0
    assert torch.equal(scale, torch.ones(3))


def test_a_magnitude_too_small_for_a_scale_becomes_zero() -> None:
    codes, scale = quantize_per_channel(torch.full((1, 4), 1e-45))
    assert codes.count_nonzero() == 0
    assert scale.tolist() == [1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinities"):
        quantize_per_channel(torch.tensor([[1.0, bad]]))


def test_more_columns_than_int32_sums_allow_are_refused() -> None:
    quantize_per_channel(torch.ones(1, 1 << 16))
    with pytest.raises(InputError, match="65,537 columns: int32 sums"):
        quantize_per_channel(torch.ones(1, (1 << 16) + 1))


@pytest.mark.parametrize("weight", [torch.randn(4), torch.ones(2, 2, dtype=torch.int64)])
def test_what_is_no_matrix_is_refused(weight: torch.Tensor) -> None:
    with pytest.raises(InputError, match="matrix"):
        quantize_per_channel(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded(dtype: torch.dtype) -> None:
    weight = torch.randn(5, 7)
    assert torch.equal(round_to_half(weight, dtype), weight.to(dtype))


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [(torch.float16, 7e4), (torch.bfloat16, 3.4e38), (torch.bfloat16, float("nan")), (torch.float16, float("inf"))],
)
def test_what_sixteen_bits_cannot_hold_is_refused(dtype: torch.dtype, bad: float) -> None:
    with pytest.raises(InputError, match="beyond"):
        round_to_half(torch.tensor([[0.0, bad]]), dtype)
