"""Bounds: their values on known blocks, their statistics, and refused arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import DIM, blocks, seeds
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import BITS, BOUNDS, LearnedBounds, MovingBounds, PerRowBounds, make_bounds, make_quantizer
from recfx.learn.bounds import BEST_SIGMAS
from recfx.learn.bounds.statistics import percentiles


@given(x=blocks(), y=blocks(), momentum=st.floats(0, 0.999), symmetric=st.booleans())
def test_moving_extremes(x: Tensor, y: Tensor, momentum: float, symmetric: bool) -> None:
    bounds = MovingBounds(4, "minmax", momentum=momentum, symmetric=symmetric)
    bounds.observe(x)
    bounds.observe(y)
    ends = [(b.abs().max().neg(), b.abs().max()) if symmetric else (b.min(), b.max()) for b in (x, y)]
    lower, upper = bounds(x)
    for found, first, second in ((lower, ends[0][0], ends[1][0]), (upper, ends[0][1], ends[1][1])):
        torch.testing.assert_close(
            found, momentum * first + (1 - momentum) * second, rtol=1e-5, atol=1e-6 * (1 + float(abs(first)))
        )


@given(x=blocks(), percent=st.floats(50.1, 100))
def test_percentiles_are_values_of_the_nearest_rank(x: Tensor, percent: float) -> None:
    low, high = percentiles(x, percent)
    ordered = x.flatten().sort().values
    last = len(ordered) - 1
    cut = min(round((1 - percent / 100) * last), last // 2)
    assert low == ordered[cut]
    assert high == ordered[last - cut]
    low, high = percentiles(x, percent, per_dimension=True)
    assert low.shape == high.shape == (1, DIM)
    assert (low >= x.min(0).values).all()
    assert (high <= x.max(0).values).all()


@given(x=blocks(torch.float64), centred=st.booleans(), sigmas=st.floats(0.5, 4))
def test_sigmas_per_dimension(x: Tensor, centred: bool, sigmas: float) -> None:
    bounds = make_bounds("per-dimension", 2, DIM, statistic="sigma", sigmas=sigmas, centred=centred).double()
    bounds.observe(x)
    mean = x.mean(0) if centred else torch.zeros(DIM, dtype=torch.float64)
    half = sigmas * ((x - mean) ** 2).mean(0).sqrt()
    lower, upper = bounds(x)
    torch.testing.assert_close(lower, (mean - half)[None])
    torch.testing.assert_close(upper, (mean + half)[None])


@pytest.mark.parametrize("symmetric", [False, True, None], ids=["moving", "symmetric", "learned"])
@pytest.mark.parametrize(
    "options",
    [
        {"statistic": "minmax"},
        {"statistic": "percentile", "percent": 80.0},
        {"statistic": "percentile"},
        {"statistic": "sigma"},
        {"statistic": "sigma", "sigmas": 1.5},
        {"statistic": "sigma", "sigmas": 1.5, "centred": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_bounds_per_dimension_are_those_of_each_column_alone(options: dict[str, Any], symmetric: bool | None) -> None:
    def bounds(dim: int | None) -> MovingBounds | LearnedBounds:
        if symmetric is None:
            return LearnedBounds(2, dim=dim, **options)
        return MovingBounds(2, dim=dim, symmetric=symmetric, momentum=0.5, **options)

    rng = torch.Generator().manual_seed(0)
    whole, blocks = bounds(3), [torch.randn(40, 3, generator=rng) * torch.tensor([1.0, 9.0, 0.1]) + 2 for _ in range(2)]
    alone = [bounds(None) for _ in range(3)]
    for block in blocks:
        whole.observe(block)
        for column, single in enumerate(alone):
            single.observe(block[:, column : column + 1])
    for found, wanted in zip(whole(blocks[0]), zip(*(single(blocks[0]) for single in alone), strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack([w.reshape(()) for w in wanted])[None])


@pytest.mark.parametrize("bits", BITS)
def test_the_best_number_of_deviations_leaves_the_least_error(bits: int) -> None:
    x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))

    def error(factor: float) -> float:
        bounds = {"sigmas": BEST_SIGMAS[bits] * factor}
        quantizer = make_quantizer(bits, "ste", "sigma", bounds_options=bounds)
        return float((quantizer(x) - x).square().mean())

    assert error(1.0) < min(error(0.93), error(1.07))


@given(x=blocks(torch.float64), groups=st.sampled_from([1, 2, 3]))
def test_per_row(x: Tensor, groups: int) -> None:
    lower, upper = PerRowBounds(4, groups=groups)(x)
    parts = x.view(len(x), groups, -1)
    torch.testing.assert_close((upper + x * 0).view_as(parts)[..., 0], parts.amax(2))
    torch.testing.assert_close((lower + x * 0).view_as(parts)[..., 0], parts.amin(2))
    quantizer = make_quantizer(1, "ste", "per-row", bounds_options={"groups": groups}).double()
    scaled = parts.abs().mean(2, keepdim=True) * torch.where(parts > 0, 1.0, -1.0)
    torch.testing.assert_close(quantizer(x), scaled.view_as(x))


def test_gradients_through_the_scale_of_a_row() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0]])
    for through, want in ((True, [[1 + 2 / 3, -2 / 3 + 1, 2 / 3 + 1]]), (False, [[1.0, 1.0, 1.0]])):
        leaf = x.clone().requires_grad_()
        quantizer = make_quantizer(1, "ste", "per-row", bounds_options={"through": through})
        quantizer(leaf).sum().backward()
        assert leaf.grad is not None
        # With a = mean|x|: d (a sign(x)) / dx = straight-through, and sum(sign) sign(x) / d for a, of which the
        # straight-through term takes back (x / a) of each element.
        if not through:
            torch.testing.assert_close(leaf.grad, torch.tensor(want))
        else:
            a, signs = 2.0, torch.tensor([1.0, -1.0, 1.0])
            share = (signs - x / a).sum() * signs / 3
            torch.testing.assert_close(leaf.grad, 1 + share.view(1, 3))


@given(seed=seeds(), bits=st.sampled_from(BITS))
def test_learned_bounds_get_what_rounding_lost_and_clipping_took(seed: int, bits: int) -> None:
    x = torch.rand(20, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 0.5
    quantizer = make_quantizer(bits, "ste", "learned", dim=DIM, bounds_options={"per_dimension": True}).double()
    bounds = quantizer.bounds
    assert isinstance(bounds, LearnedBounds)
    bounds.set_bounds(torch.zeros(1, DIM), torch.ones(1, DIM))
    quantizer.eval()(x).sum().backward()
    x_n = x.clamp(0, 1)
    x_q = (x_n * quantizer.steps).round() / quantizer.steps
    of_upper = torch.where(x > 1, 1.0, torch.where(x < 0, 0.0, x_q - x_n)).sum(0, keepdim=True)
    of_lower = torch.where(x > 1, 0.0, torch.where(x < 0, 1.0, x_n - x_q)).sum(0, keepdim=True)
    for bound, want in ((bounds.upper, of_upper), (bounds.lower, of_lower)):
        assert bound.grad is not None
        torch.testing.assert_close(bound.grad, want)


def test_learned_bounds_start_once() -> None:
    bounds = LearnedBounds(1, "minmax")
    bounds.observe(torch.empty(0, 3))
    assert not bounds.ready
    bounds.observe(torch.tensor([[-1.0, 2.0]]))
    bounds.observe(torch.tensor([[-10.0, 20.0]]))
    assert (float(bounds.lower.detach()), float(bounds.upper.detach())) == (-1.0, 2.0)


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - {"per-row"}))
def test_bounds_are_kept_in_the_state(name: str) -> None:
    bounds = make_bounds(name, 2, 3)
    with pytest.raises(InputError, match="bounds are not set yet"):
        bounds(torch.ones(1, 3))
    bounds.observe(torch.tensor([[-1.0, 2.0, 0.5], [0.0, 1.0, 0.25]]))
    other = make_bounds(name, 2, 3)
    other.load_state_dict(bounds.state_dict())
    for found, want in zip(other(torch.ones(1, 3)), bounds(torch.ones(1, 3)), strict=True):
        assert torch.equal(found, want)


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - {"per-row"}))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    bounds = make_bounds(name, 2, 2, **({} if name != "ema-percentile" else {"percent": 100}))
    with pytest.raises(InputError, match="NaN or infinities"):
        bounds.observe(torch.tensor([[0.0, value]]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("per-dimension", {"dim": None}),
        ("unknown", {}),
        ("ema-minmax", {"momentum": 1.0}),
        ("ema-percentile", {"percent": 50.0}),
        ("sigma", {"sigmas": 0.0}),
        ("per-row", {"groups": 0}),
        ("per-row", {"statistic": "sigma"}),
        ("per-dimension", {"statistic": "mean"}),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        make_bounds(name, 1, **{"dim": 4, **options})  # type: ignore[arg-type]


def test_columns_must_fit() -> None:
    bounds = make_bounds("per-dimension", 1, 3)
    with pytest.raises(InputError, match="3 dimensions"):
        bounds.observe(torch.ones(2, 4))
    with pytest.raises(InputError, match="divided"):
        PerRowBounds(1, groups=2)(torch.ones(2, 3))
