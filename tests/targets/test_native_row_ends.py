"""Steps along a row whose numbers are NaN, infinite, or so large that a sum of squares overflows, at every instruction-set level."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from native_kit import generator, lower_everywhere, needs_kernels
from torch.nn import functional

from recfx.ops import mlp

pytestmark = needs_kernels

Function = Callable[..., torch.Tensor]
_VALUES = (math.nan, math.inf, -math.inf)
_WIDTHS = (1, 5, 16, 33, 70)


def _rows(width: int) -> torch.Tensor:
    """Rows with one special number at the start, in the middle or at the end, and one without."""
    x = torch.randn(10, width, generator=generator(width))
    for number in range(9):
        x[number, (0, width // 2, width - 1)[number // 3]] = _VALUES[number % 3]
    return x


def _same_kind(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


FUNCTIONS: dict[str, Function] = {
    "softmax": lambda x: x.softmax(-1),
    "softmax over keys": lambda x: x.unsqueeze(2).expand(-1, -1, 3).softmax(1),
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "largest": lambda x: x.amax(1),
    "smallest": lambda x: x.amin(1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "layer norm": lambda x: functional.layer_norm(x, (x.shape[1],)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("width", _WIDTHS)
def test_rows_with_one_special_number(name: str, width: int) -> None:
    x = _rows(width)
    expected = FUNCTIONS[name](x)
    for run in lower_everywhere(FUNCTIONS[name], [x], []):
        _same_kind(run(x)[0], expected)


@pytest.mark.parametrize("width", _WIDTHS)
def test_softmax_of_extreme_scores(width: int) -> None:
    """Scores far apart, all hidden, or so low that their exponentials are denormal."""
    x = torch.full((5, width), -math.inf)
    x[1], x[2] = -3e38, 3e38
    x[2, 0] = -3e38
    x[3], x[4] = -95.0, 0.0
    x[3, 0] = 0.0
    expected = x.softmax(-1)
    assert bool(expected[0].isnan().all())
    for run in lower_everywhere(FUNCTIONS["softmax"], [x], []):
        (found,) = run(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-45, equal_nan=True)


@pytest.mark.parametrize("width", [2, 16, 33, 64])
def test_a_variance_beyond_float32_is_nan(width: int) -> None:
    """torch gives NaN or zeros, by the number of columns; zeros look like an answer."""
    x = torch.randn(4, width, generator=generator(width))
    x[1], x[2] = x[1] * 1e30, x[2] * 1e20
    layer = mlp.Layer(0, norm=True)
    ints, numbers = mlp.encode([layer])

    def chain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.ops.recfx.mlp(x, [weight], ints, numbers)

    weight = torch.eye(width)
    cases: list[tuple[Function, list[torch.Tensor]]] = [(FUNCTIONS["layer norm"], []), (chain, [weight])]
    for function, state in cases:
        expected = function(x, *state)
        for run in lower_everywhere(function, [x], state):
            (found,) = run(x)
            assert bool(found[[1, 2]].isnan().all())
            _same_kind(found[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e-40])
def test_layer_norm_of_small_rows(scale: float) -> None:
    x = torch.randn(3, 33, generator=generator(0)) * scale
    for run in lower_everywhere(FUNCTIONS["layer norm"], [x], []):
        torch.testing.assert_close(run(x)[0], FUNCTIONS["layer norm"](x), rtol=1e-4, atol=2e-42)
