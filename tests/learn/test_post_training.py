"""Post-training rounding: errors against their bounds, rotations, and RaBitQ's estimate."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import DIM, blocks, seeds
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import BITS
from recfx.learn.post_training import (
    METHODS,
    RaBitQ,
    itq_rotation,
    minmax_rows,
    random_rotation,
    rotate_and_round,
    round_rows,
    round_tables,
    scaled_rows,
    sign_rows,
)


@given(x=blocks(torch.float64))
def test_signs_have_the_scale_of_least_error(x: Tensor) -> None:
    table = sign_rows(x)
    signs = torch.where(x > 0, 1.0, -1.0)
    assert torch.equal(table.codes, (x > 0).to(torch.uint8))
    best = (x * signs).sum(1, keepdim=True) / x.shape[1]
    torch.testing.assert_close(table.dequantize(), best * signs)


@pytest.mark.parametrize("bits", BITS)
def test_rows_choose_what_loses_less(bits: int) -> None:
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    errors = [float((method(x, bits).dequantize() - x).square().mean()) for method in (scaled_rows, minmax_rows)]
    chosen = float((round_rows(x, bits).dequantize() - x).square().mean())
    assert chosen == min(errors)


@given(x=blocks(), bits=st.sampled_from(BITS))
def test_levels_between_the_extremes(x: Tensor, bits: int) -> None:
    table = minmax_rows(x, bits)
    found = table.dequantize()
    slack = 1e-5 * x.abs().amax(1, keepdim=True)
    assert ((found - x).abs() <= table.step / 2 + slack).all()
    torch.testing.assert_close(found.amin(1), x.amin(1))
    torch.testing.assert_close(found.amax(1), x.amax(1), rtol=1e-5, atol=float(slack.max()))


@given(dim=st.integers(1, 40), seed=seeds())
def test_rotations_leave_dot_products(dim: int, seed: int) -> None:
    rotation = random_rotation(dim, seed)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(dim), rtol=1e-5, atol=1e-5)
    x = torch.randn(30, dim, generator=torch.Generator().manual_seed(seed))
    fitted = itq_rotation(x, iterations=5, seed=seed)
    torch.testing.assert_close(fitted @ fitted.T, torch.eye(dim), rtol=1e-5, atol=1e-5)


def _lost(x: Tensor, rotation: Tensor) -> float:
    """The lost share of the squared length by signs with the best scale."""
    turned = torch.nn.functional.normalize(x @ rotation, dim=1)
    return float(((sign_rows(turned).dequantize() - turned) ** 2).sum() / len(x))


def test_fitted_rotations_lose_less_with_every_step() -> None:
    """Rows near the corners of a rotated cube; a random rotation is far from the cube's."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 2, (12, 16), generator=generator) * 2.0 - 1
    x = corners[torch.randint(12, (2000,), generator=generator)] + 0.3 * torch.randn(2000, 16, generator=generator)
    x = x @ random_rotation(16, 5)
    losses = [_lost(x, itq_rotation(x, iterations=n, seed=1)) for n in (0, 1, 3, 10, 50)]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(losses))
    assert losses[0] == pytest.approx(_lost(x, random_rotation(16, 1)))
    assert losses[-1] < 0.6 * losses[0]


def test_a_rotation_spreads_what_a_sign_loses() -> None:
    """If a few columns hold nearly all of a row, signs lose most of it."""
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(200, 64, generator=generator) * 0.8 ** torch.arange(64) for _ in range(2))
    exact = users @ items.T

    def off(method: str) -> float:
        first, second = round_tables(method, users, items)
        found = first.dequantize() @ second.dequantize().T
        return 1 - float(torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1])

    assert off("rotation") < 0.8 * off("rows")
    assert off("itq") < 0.8 * off("rows")


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("bits", BITS)
def test_more_bits_come_nearer(method: str, bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(50, 32, generator=generator), torch.randn(40, 32, generator=generator)
    first, second = round_tables(method, users, items, bits)
    error = (first.dequantize() @ second.dequantize().T - users @ items.T).std() / math.sqrt(32)
    assert float(error) < {1: 0.9, 2: 0.55, 4: 0.12, 8: 0.01}[bits]


@pytest.mark.parametrize("centred", [False, True])
def test_rabitq_is_unbiased(centred: bool) -> None:
    """The distance of the mean over rotations from the true value is within its standard errors."""
    generator = torch.Generator().manual_seed(0)
    items, queries = torch.randn(12, 32, generator=generator) + 0.5, torch.randn(5, 32, generator=generator)
    centre = None if centred else torch.zeros(32)
    draws = torch.stack([RaBitQ.encode(items, centre=centre, seed=seed).scores(queries) for seed in range(400)])
    off = (draws.mean(0) - queries @ items.T) / (draws.std(0) / 20)
    assert float(off.abs().max()) < 4.5
    assert float(off.square().mean()) < 1.6


def test_rabitq_takes_the_rotation_of_its_seed() -> None:
    items = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    rotations = [RaBitQ.encode(items, **options).rotation for options in ({}, {"seed": 0}, {"seed": 1})]
    assert torch.equal(rotations[0], rotations[1])
    assert not torch.equal(rotations[0], rotations[2])
    assert torch.equal(rotations[2], random_rotation(16, 1))


@pytest.mark.parametrize("dim", [64, 256])
def test_rabitq_keeps_its_bound(dim: int) -> None:
    generator = torch.Generator().manual_seed(1)
    items, queries = torch.randn(500, dim, generator=generator), torch.randn(40, dim, generator=generator)
    codes = RaBitQ.encode(items, seed=3)
    assert float(codes.alignments.mean()) == pytest.approx(0.8, abs=0.01)
    error = (codes.scores(queries) - queries @ items.T).abs()
    share = float((error > codes.bounds(queries)).float().mean())
    assert 0.03 < share < 0.08
    assert not bool((error > codes.bounds(queries, 6.0)).any())
    of_cosine = codes.bounds(queries) / (queries.norm(dim=1, keepdim=True) * codes.norms)
    assert float(of_cosine.mean()) == pytest.approx({64: 0.18, 256: 0.089}[dim], rel=0.03)


def test_rabitq_of_what_lies_at_the_centre() -> None:
    items = torch.ones(3, 4)
    codes = RaBitQ.encode(items)
    queries = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    torch.testing.assert_close(codes.scores(queries), torch.full((1, 3), 10.0))
    assert torch.equal(codes.bounds(queries), torch.zeros(1, 3))
    assert RaBitQ.encode(torch.empty(0, 4)).scores(queries).shape == (1, 0)
    one = RaBitQ.encode(torch.tensor([[2.0], [-1.0]]))
    torch.testing.assert_close(one.scores(torch.tensor([[3.0]])), torch.tensor([[6.0, -3.0]]))


@given(x=blocks(), rows=st.integers(0, 3))
def test_empty_and_constant_tables(x: Tensor, rows: int) -> None:
    empty = round_tables("rows", x[:0], x[:0], 4)
    assert empty[0].codes.shape == (0, DIM)
    constant = torch.full((rows, DIM), 2.5)
    torch.testing.assert_close(minmax_rows(constant, 2).dequantize(), constant)
    torch.testing.assert_close(sign_rows(constant).dequantize(), constant)
    torch.testing.assert_close(sign_rows(constant * 0).dequantize(), constant * 0, rtol=0, atol=1e-20)
    assert itq_rotation(x[:0]).shape == (DIM, DIM)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    x = torch.ones(3, 4)
    x[1, 2] = value
    for call in (
        sign_rows,
        itq_rotation,
        RaBitQ.encode,
        lambda t: minmax_rows(t, 4),
        RaBitQ.encode(torch.eye(4)).scores,
    ):
        with pytest.raises(InputError, match="row 1"):
            call(x)


def test_what_does_not_fit() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(InputError, match="method"):
        round_tables("unknown", x, x)
    with pytest.raises(InputError, match="bits"):
        round_tables("rows", x, x, 3)
    for method in ("rotation", "itq"):
        with pytest.raises(InputError):
            round_tables(method, x, torch.ones(2, 4))
    with pytest.raises(InputError):
        rotate_and_round(x, x, torch.eye(4))
    with pytest.raises(InputError):
        random_rotation(0)
    with pytest.raises(InputError):
        RaBitQ.encode(x, centre=torch.ones(2))
    with pytest.raises(InputError):
        RaBitQ.encode(x).scores(torch.ones(1, 4))
