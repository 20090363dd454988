"""Each estimator's gradient against a second, simple implementation of its formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from learn_kit import DIM, blocks, seeds
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import (
    BITS,
    ESTIMATORS,
    Estimator,
    FourierSeries,
    GaussianDirac,
    Guidance,
    HessianScaled,
    LearnedBounds,
    LearnedStepSize,
    Quantizer,
    StraightThrough,
)

SPAN = torch.tensor(2.0, dtype=torch.float64)


def _block(seed: int) -> Tensor:
    """Float64 [30, DIM], two thirds of it inside [0, 1], with its ends and a threshold of one bit."""
    x = torch.rand(30, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.5 - 0.25
    x[0, :2] = torch.tensor([0.0, 1.0])
    return x


def _gradient(estimator: Estimator, x: Tensor, steps: int, upstream: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    estimator(x, steps, SPAN).backward(upstream)
    assert x.grad is not None
    return x.grad


def _upstream(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=x.dtype)


@given(seed=seeds(), bits=st.sampled_from(BITS), name=st.sampled_from(sorted(ESTIMATORS)))
def test_all_estimators_round_alike(seed: int, bits: int, name: str) -> None:
    x, steps = _block(seed), (1 << bits) - 1
    found = ESTIMATORS[name]().eval()(x, steps, SPAN)
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    nearest = (x.unsqueeze(2) - grid).abs().min(2)
    torch.testing.assert_close((x - found).abs(), nearest.values)
    assert torch.isin(found, grid).all()


@given(seed=seeds(), bits=st.sampled_from(BITS), clip=st.booleans())
def test_straight_through(seed: int, bits: int, clip: bool) -> None:
    x = _block(seed)
    upstream = _upstream(x, seed)
    inside = ((x >= 0) & (x <= 1)) | (not clip)
    assert torch.equal(_gradient(StraightThrough(clip=clip), x, (1 << bits) - 1, upstream), upstream * inside)


@given(
    seed=seeds(), bits=st.sampled_from(BITS), delta=st.floats(0, 50), clamp=st.booleans(), clip=st.booleans()
)  # fmt: skip
def test_hessian_scaled(seed: int, bits: int, delta: float, clamp: bool, clip: bool) -> None:
    x, steps = _block(seed), (1 << bits) - 1
    upstream = _upstream(x, seed)
    estimator = HessianScaled(delta, clamp=clamp, clip=clip).double()
    estimator.set_delta(delta)
    want = torch.empty_like(x)
    for place in range(x.numel()):
        value, g = float(x.flatten()[place]), float(upstream.flatten()[place])
        x_n = min(max(value, 0.0), 1.0)
        x_q = round(x_n * steps) / steps
        factor = 1 + delta * math.copysign(1, g) * (x_n - x_q)
        factor = max(factor, 0.0) if clamp else factor
        want.view(-1)[place] = factor * g * (0 <= value <= 1 or not clip)
    torch.testing.assert_close(_gradient(estimator, x, steps, upstream), want)


@given(x=blocks(), bits=st.sampled_from(BITS), seed=seeds(), clip=st.booleans())
def test_hessian_scaled_without_delta_is_straight_through_bit_for_bit(
    x: Tensor, bits: int, seed: int, clip: bool
) -> None:
    upstream, steps = _upstream(x, seed), (1 << bits) - 1
    found = _gradient(HessianScaled(0.0, clip=clip), x, steps, upstream)
    want = _gradient(StraightThrough(clip=clip), x, steps, upstream)
    assert torch.equal(found.view(torch.int32), want.view(torch.int32))


@given(seed=seeds(), delta=st.floats(0, 3), exponent=st.integers(-8, 8))
def test_the_correction_does_not_depend_on_the_scale(seed: int, delta: float, exponent: int) -> None:
    """delta_q (x_n - x_q) = delta_hat (x - x_hat) with delta_hat = delta_q / (u - l): powers of two leave no rounding."""
    x = torch.rand(20, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    upstream, scale = _upstream(x, seed), 2.0**exponent
    bounds = LearnedBounds(1)
    gradients = []
    for factor in (1.0, scale):
        quantizer = Quantizer(1, bounds, HessianScaled(delta)).double().eval()
        bounds.set_bounds(torch.tensor(0.0), torch.tensor(factor))
        block = (x * factor).requires_grad_()
        quantizer(block).backward(upstream)
        assert block.grad is not None
        gradients.append(block.grad)
    assert torch.equal(*gradients)
    off = x - (x > 0.5).double()
    hat = delta / scale * (x * scale - (x > 0.5) * scale)
    torch.testing.assert_close(hat, delta * off)
    torch.testing.assert_close(
        gradients[0], upstream * (1 + float(torch.tensor(delta)) * upstream.sign() * off).clamp(min=0)
    )


def test_a_step_back_grows_when_it_leaves_the_rounding_behind() -> None:
    """With a positive gradient, an element above its grid value gets a larger gradient, and one below a smaller
    gradient."""
    x = torch.tensor([[0.2, 0.8]])
    gradient = _gradient(HessianScaled(1.0), x, 1, torch.ones(1, 2))
    torch.testing.assert_close(gradient, torch.tensor([[1.2, 0.8]]))


@given(seed=seeds(), gamma=st.floats(0.1, 5), units=st.sampled_from(["bounds", "embedding"]))
def test_gaussian_at_one_bit_is_bigears(seed: int, gamma: float, units: str) -> None:
    """In x_hat = a sign(v), a = span / 2: the derivative is a times the Gaussian of v, or that of v / a."""
    x = _block(seed)
    v = (x - 0.5) * SPAN
    upstream = _upstream(x, seed)
    found = _gradient(GaussianDirac(gamma, units), x, 1, upstream)  # type: ignore[arg-type]
    a = SPAN / 2 if units == "embedding" else torch.tensor(1.0, dtype=torch.float64)
    z = v if units == "embedding" else v / (SPAN / 2)
    want = upstream * a * (gamma / math.sqrt(math.pi) * torch.exp(-((gamma * z) ** 2))).clamp(1e-8, 1)
    torch.testing.assert_close(found, want)


@given(seed=seeds(), bits=st.sampled_from(BITS), terms=st.sampled_from([4, 8, 16]), half=st.floats(0.5, 4))
def test_fourier_series(seed: int, bits: int, terms: int, half: float) -> None:
    x, steps = _block(seed), (1 << bits) - 1
    upstream = _upstream(x, seed)
    found = _gradient(FourierSeries(terms, half), x, steps, upstream)
    frequency = math.pi / half
    want = torch.empty_like(x)
    for place in range(x.numel()):
        scaled = float(x.flatten()[place]) * steps
        z = 2 * (scaled - min(max(math.floor(scaled), 0), steps - 1)) - 1
        assume(abs(abs(z) - half) > 1e-9)
        series = 4 * frequency / math.pi * sum(math.cos(i * frequency * z) for i in range(1, terms, 2))
        want.view(-1)[place] = min(max(series, -1), 1) * (abs(z) < half)
    torch.testing.assert_close(found, upstream * want, rtol=1e-6, atol=1e-9)


@given(seed=seeds(), bits=st.sampled_from(BITS))
def test_learned_step_size(seed: int, bits: int) -> None:
    """d x_hat / d s = round(v) - v inside and the code at the end outside, over sqrt(N L); s moves u = l + L s."""
    x, steps = _block(seed), (1 << bits) - 1
    upstream = _upstream(x, seed)
    bounds = LearnedBounds(bits).double()
    bounds.set_bounds(torch.tensor(0.1), torch.tensor(0.9))
    Quantizer(bits, bounds, LearnedStepSize()).eval()(x).backward(upstream)
    s = 0.8 / steps
    v = (x - 0.1) / s
    slope = torch.where(v < 0, 0.0, torch.where(v > steps, float(steps), v.round() - v))
    assert bounds.upper.grad is not None
    torch.testing.assert_close(
        bounds.upper.grad * steps, (upstream * slope).sum() / math.sqrt(x.numel() * steps), rtol=1e-6, atol=1e-6
    )


@given(seed=seeds(), beta=st.floats(0, 1))
def test_guidance_rounds_a_share_of_the_rows(seed: int, beta: float) -> None:
    x = torch.rand(400, DIM, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    guidance = Guidance()
    guidance.beta.fill_(beta)
    torch.manual_seed(seed)
    found = guidance(x, 1, SPAN)
    rounded = (found == x.round()).all(1)
    assert ((found == x).all(1) | rounded).all()
    assert abs(float(rounded.float().mean()) - beta) < 5 * math.sqrt(0.25 / 400)
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.equal(guidance.eval()(x, 1, SPAN), x.round())


def test_guidance_rises_and_stays() -> None:
    guidance = Guidance(rise=0.02, every=2)
    found = []
    for epoch in (0, 1, 2, 3, 50, 99, 100, 102, 1000):
        guidance.start_epoch(epoch)
        found.append(round(float(guidance.beta), 4))
    assert found == [0, 0, 0.02, 0.02, 0.5, 0.98, 1, 1, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: HessianScaled(-1.0),
        lambda: HessianScaled(math.nan),
        lambda: GaussianDirac(0.0),
        lambda: FourierSeries(1),
        lambda: FourierSeries(4, -1.0),
        lambda: Guidance(0.0),
        lambda: Guidance(0.1, 0),
    ],
)
def test_options_out_of_range(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]
