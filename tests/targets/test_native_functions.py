"""Element-wise functions in the native backend against torch: accuracy, special values, dtypes, at every level."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from native_kit import LEVELS, generator, lower_everywhere, near, needs_kernels, partition, program_of
from torch.nn import functional

pytestmark = needs_kernels

Function = Callable[..., torch.Tensor]

#: Every exponent of float32 with 24 mantissas each, of both signs, and the special numbers.
_MANTISSAS = torch.linspace(0, 2**23 - 1, 24).to(torch.int32)
_BITS = ((torch.arange(255, dtype=torch.int32) << 23)[:, None] + _MANTISSAS).reshape(-1)
_POSITIVE = torch.cat([_BITS, torch.tensor([1, 0x7F7FFFFF], dtype=torch.int32)]).view(torch.float32)
_SPECIAL = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 1e-45, -1e-45])
EVERYWHERE = torch.cat([_POSITIVE, -_POSITIVE, _SPECIAL, torch.linspace(-20, 20, 4001), torch.linspace(-1, 1, 4001)])

_NAMES = (
    "log1p expm1 sign sgn sin cos tan atan asin acos sinh cosh asinh acosh atanh log2 log10 exp2 floor ceil round trunc frac",
    "isfinite isnan isinf signbit nan_to_num positive logical_not",
)

UNARY: dict[str, Function] = {name: getattr(torch, name) for names in _NAMES for name in names.split()
} | {
    "softplus": functional.softplus,
    "softplus, scaled": lambda x: functional.softplus(x, 0.5, 10.0),
    "elu": functional.elu,
    "elu, scaled": lambda x: functional.elu(x, 0.3),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 1.5),
    "mish": functional.mish,
    "logsigmoid": functional.logsigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "hardshrink": functional.hardshrink,
    "softshrink": functional.softshrink,
    "threshold": lambda x: functional.threshold(x, 0.1, -3.0),
    "relu6": functional.relu6,
    "logit": torch.logit,
    "logit, held": lambda x: torch.logit(x, 1e-3),
    "fills of one's own": lambda x: torch.nan_to_num(x, 1.5, 2.5, -3.5),
    "clamped above": lambda x: x.clamp_max(0.25),
    
    "quotient, truncated": lambda x: torch.div(x, -0.3, rounding_mode="trunc"),
    "floor division": lambda x: x // 1.5,
}  # fmt: skip


def _shift(x: torch.Tensor) -> torch.Tensor:
    """Partners for all numbers: other exponents, signs and special values."""
    return x.flip(0) * 0.75


BINARY: dict[str, Function] = {
    "atan2": torch.atan2,
    "power": lambda x, y: torch.pow(x, y),
    "hypot": torch.hypot,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "max": torch.max,
    "min": torch.min,
    "copysign": torch.copysign,
    "xlogy": torch.xlogy,
    "logaddexp": torch.logaddexp,
    "clamp": lambda x, y: torch.clamp(x, y, y * 2),
    "clamp from below": lambda x, y: torch.clamp(x, min=y),
    "clamp from above": lambda x, y: torch.clamp(x, max=y),
}

#: Of two tensors [B, 5]: sums, whose relative error has no bound.
SUMS: dict[str, Function] = {
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.5),
    "addcmul, broadcast": lambda x, y: torch.addcmul(x, y[:, :1], y),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, y, value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "lerp, far": lambda x, y: torch.lerp(x, y, 0.75),
    "scaled sum": lambda x, y: torch.add(x, y, alpha=2),
    "scaled difference": lambda x, y: torch.sub(x, y, alpha=0.5),
    "lerp by a tensor": lambda x, y: torch.lerp(x, y, x * y),
    "remainder": torch.remainder,
    "remainder of a number": lambda x, y: x % 0.7 + y % -1,
    "modulo": torch.fmod,
    "quotients": lambda x, y: torch.floor_divide(x, y) + torch.div(x, y, rounding_mode="trunc"),
    "gated": lambda x, y: functional.glu(torch.cat([x, y], 1)) + functional.glu(torch.stack([x, y], 1), 1)[:, 0],
}


def _steps(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How many float32 lie between two tensors' elements."""
    ordered = [
        torch.where(b < 0, -(b & 0x7FFFFFFF), b).long()
        for b in (t.contiguous().view(torch.int32) for t in (found, wanted))
    ]
    return (ordered[0] - ordered[1]).abs()


def assert_close_in_ulps(found: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, most: int = 2) -> None:
    """At most `most` float32 from the exact value, or at most as far as torch; NaN, infinities and zeros as torch gives them."""
    assert found.shape == plain.shape
    assert found.dtype is plain.dtype
    if found.dtype is not torch.float32:
        return torch.testing.assert_close(found, plain, rtol=0, atol=0)
    torch.testing.assert_close(found.isnan(), plain.isnan())
    held = ~plain.isnan()
    found, plain, rounded = found[held], plain[held], exact.float()[held]
    far, allowed = _steps(found, rounded), _steps(plain, rounded).clamp(min=most)
    worst = int((far - allowed).argmax()) if far.numel() else 0
    assert bool((far <= allowed).all()), f"{found[worst]} instead of {rounded[worst]} (torch: {plain[worst]})"


def _column(x: torch.Tensor, width: int = 7) -> torch.Tensor:
    """Rows of an odd width."""
    return x[: x.numel() // width * width].reshape(-1, width)


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor(name: str) -> None:
    function, x = UNARY[name], _column(EVERYWHERE)
    plain, exact = function(x), function(x.double())
    for run in lower_everywhere(function, [x]):
        assert_close_in_ulps(run(x)[0], plain, exact)
        assert_close_in_ulps(run(x[:1])[0], plain[:1], exact[:1])


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_tensors(name: str) -> None:
    function, x = BINARY[name], _column(EVERYWHERE, 33)
    y = _shift(x)
    special = torch.cartesian_prod(_SPECIAL, _SPECIAL)
    x = torch.cat([x, special[:, 0].repeat(33, 1).T])
    y = torch.cat([y, special[:, 1].repeat(33, 1).T])
    plain, exact = function(x, y), function(x.double(), y.double())
    for run in lower_everywhere(function, [x, y]):
        assert_close_in_ulps(run(x, y)[0], plain, exact)


@pytest.mark.parametrize("name", SUMS)
def test_sums(name: str) -> None:
    rng = generator(3)
    x, y = torch.randn(6, 5, generator=rng), torch.randn(6, 5, generator=rng)
    near(SUMS[name], [x, y], [], 1e-6, 1e-6)


#: Of whole numbers [B, 5] and a mask [B, 5].
WHOLE: dict[str, Callable[..., Any]] = {
    "negated": lambda i, m: -i,
    "magnitude": lambda i, m: i.abs(),
    "squared": lambda i, m: torch.square(i),
    "sign": lambda i, m: torch.sign(i),
    "from a number": lambda i, m: 7 - i,
    "maximum": lambda i, m: torch.maximum(i, i.flip(1)),
    "minimum": lambda i, m: torch.min(i, i.flip(1)),
    "clamped by tensors": lambda i, m: torch.clamp(i, i.flip(1), i.flip(1) + 3),
    "clamped above": lambda i, m: i.clamp(max=4) + i.clamp_max(3),
    "divided, rounded down": lambda i, m: i // 3,
    "divided, truncated": lambda i, m: torch.div(i, -3, rounding_mode="trunc"),
    "divided by -1": lambda i, m: torch.div(i, -1, rounding_mode="floor"),
    "chosen": lambda i, m: torch.where(m, i, i.flip(1)),
    "chosen or a number": lambda i, m: torch.where(m, i, 0),
    "a number or chosen": lambda i, m: torch.where(m, -4, i),
    "one of two numbers": lambda i, m: torch.where(m, 3, -2),
    "filled": lambda i, m: i.masked_fill(m, 9),
    "a mask filled": lambda i, m: m.masked_fill(i > 2, True),
    "masks chosen": lambda i, m: torch.where(i > 2, m, ~m),
    "masks that differ": lambda i, m: m ^ (i > 2),
    "numbers that differ": lambda i, m: torch.logical_xor(i, i.flip(1)),
    "no change to a mask": lambda i, m: m & True,
    "a mask of nothing": lambda i, m: (i > 1) & False,
    "is finite": lambda i, m: torch.isfinite(i.float()),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("name", WHOLE)
def test_functions_of_whole_numbers(name: str, dtype: torch.dtype) -> None:
    function, bounds = WHOLE[name], torch.iinfo(dtype)
    edges = torch.tensor([[bounds.min, bounds.max, 0, -1, 1], [-7, 7, -3, 3, 2]], dtype=dtype)
    i = torch.cat([edges, torch.arange(-10, 10, dtype=dtype).reshape(4, 5)])
    m = torch.arange(30).reshape(6, 5) % 3 == 0
    expected = function(i, m)
    for run in lower_everywhere(function, [i, m]):
        for rows in (6, 1):
            torch.testing.assert_close(run(i[:rows], m[:rows])[0], expected[:rows], rtol=0, atol=0)


def test_division_by_zero_stays_with_torch() -> None:
    """For whole numbers torch raises an error; a kernel would stop the process."""
    i = torch.arange(6).reshape(2, 3)
    made = partition(program_of(lambda i: torch.div(i, i + 1, rounding_mode="floor"), [i]), LEVELS[0])
    assert any("varies" in reason for reason in made.refused.values())
