"""Hutchinson's estimator: when it stops, what has no curvature, and its probes. Tests of losses hold it against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.hutchinson import hutchinson_trace, rademacher


@given(st.integers(0, 2**32), st.lists(st.integers(0, 4), max_size=3), st.sampled_from([torch.float32, torch.float64]))
def test_probes_are_signs_of_the_same_form(seed: int, shape: list[int], dtype: torch.dtype) -> None:
    like = torch.zeros(shape, dtype=dtype)
    found = rademacher(like, torch.Generator().manual_seed(seed))
    assert found.shape == like.shape
    assert found.dtype is dtype
    assert bool((found.abs() == 1).all())
    assert torch.equal(found, rademacher(like, torch.Generator().manual_seed(seed)))


def test_the_signs_are_even_and_independent() -> None:
    signs = rademacher(torch.zeros(20_000, 3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(signs.T @ signs / len(signs), torch.eye(3), rtol=0, atol=0.03)
    assert float(signs.mean(0).abs().max()) < 0.03


def test_hutchinson_stops_when_the_mean_settles_even_below_zero() -> None:
    """A diagonal Hessian gives every probe the same value: two are enough, for either sign."""
    x = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sign in (1.0, -1.0):
        estimate = hutchinson_trace(lambda v, s=sign: s * (v**4).sum(), [x], probes=50)
        assert (estimate.probes, estimate.settled) == (2, True)
        assert estimate.trace == pytest.approx(sign * float((12 * x**2).sum()))

    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - torch.eye(5)
    for sign in (1.0, -1.0):
        estimate = hutchinson_trace(
            lambda v, s=sign: s * (v @ matrix @ v), [x], probes=50, generator=torch.Generator().manual_seed(1)
        )
        assert estimate.probes > 5


def test_hutchinson_of_what_has_no_curvature() -> None:
    x, y = torch.ones(3), torch.ones(2)
    assert hutchinson_trace(lambda a, b: a.sum(), [x, y], probes=3).traces == (0.0, 0.0)
    found = hutchinson_trace(lambda a, b: a.sum() + (b**2).sum(), [x, y], probes=3).traces
    assert found == (0.0, pytest.approx(4.0))
    assert hutchinson_trace(lambda a, b: (a[:2] * b).sum(), [x, y], probes=1).standard_error == math.inf


def test_what_cannot_be_estimated() -> None:
    with pytest.raises(InputError, match="probe"):
        hutchinson_trace(lambda x: x.sum(), [torch.ones(2)], probes=0)
    with pytest.raises(InputError, match="scalar"):
        hutchinson_trace(lambda x: x * x, [torch.ones(2)])
