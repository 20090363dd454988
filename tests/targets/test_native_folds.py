"""Reductions of any dtype, running sums, row numbers, norms of several steps and rearrangements, at every level."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from native_kit import LEVELS, generator, lower_everywhere, needs_kernels, partition, program_of
from torch.nn import functional

pytestmark = needs_kernels

Function = Callable[..., Any]

#: Of any tensor [B, 5, 7].
FOLDS: dict[str, Function] = {
    "largest": lambda x: x.max(1)[0],
    "largest and where": lambda x: tuple(x.max(-1)),
    "smallest and where": lambda x: tuple(x.min(1, keepdim=True)),
    "largest of both": lambda x: x.amax((1, 2)),
    "smallest": lambda x: x.amin(-1),
    "where the largest is": lambda x: x.argmax(1),
    "where the smallest is": lambda x: x.argmin(-1, keepdim=True),
    "any": lambda x: x.any(1),
    "any of both": lambda x: (x > 1).any(dim=(1, 2)),
    "any, kept": lambda x: x.any(-1, keepdim=True),
    "all": lambda x: x.all(-1),
    "all, of another order": lambda x: x.transpose(1, 2).all(2),
    "how many": lambda x: torch.count_nonzero(x, 1),
    "product": lambda x: x[:, :3].prod(1),
    "of part of the columns": lambda x: x[:, 1:, ::2].max(2)[0],
    "of one element": lambda x: tuple(x[:, :1].max(1)),
}

#: Of float32 [B, 5, 7].
FLOATS: dict[str, Function] = {
    "variance": lambda x: x.var(-1),
    "variance over the middle": lambda x: x.var(1, unbiased=False, keepdim=True),
    "variance of both": lambda x: x.var((1, 2)),
    "deviation": lambda x: x.std(1),
    "deviation, biased": lambda x: x.std(-1, unbiased=False),
    "deviation, corrected": lambda x: x.std(-1, correction=2),
    "variance of one element": lambda x: x[:, :1].var(1),
    "variance and mean": lambda x: torch.var_mean(x, -1),
    "deviation and mean": lambda x: torch.std_mean(x, 1, unbiased=False),
    "dimensions apart": lambda x: x[:, :, :6].unflatten(2, (2, 3)).var((1, 3)),
    "running sum": lambda x: x.cumsum(1),
    "running sum of the last": lambda x: x.cumsum(-1),
    "running sum of a mask": lambda x: (x > 0).float().cumsum(2),
    "running product": lambda x: x.cumprod(1),
    "logarithm of softmax": lambda x: torch.log_softmax(x, 1),
    "logarithm of softmax of the last": lambda x: torch.log_softmax(x * 30, -1),
    "logarithm of a sum": lambda x: torch.logsumexp(x, (1, 2)),
    "logarithm of a sum, kept": lambda x: torch.logsumexp(x * 30, 1, keepdim=True),
    "logarithm of nothing": lambda x: torch.logsumexp(x.masked_fill(x > -9, -math.inf), 1),
    "norm by the mean square": lambda x: functional.rms_norm(x, (7,), torch.arange(1.0, 8.0)),
    "norm by the mean square, plain": lambda x: functional.rms_norm(x, (7,), eps=1e-3),
    "cosine": lambda x: functional.cosine_similarity(x, x.flip(1), dim=-1),
    "cosine with one vector": lambda x: functional.cosine_similarity(x, x[:, :1], dim=2),
    "cosine of nothing": lambda x: functional.cosine_similarity(x * 0, x, dim=1),
}


def _same(function: Function, inputs: list[torch.Tensor], *, exact: bool) -> None:
    tolerance = 0.0 if exact else 2e-6
    for run in lower_everywhere(function, inputs):
        for rows in (len(inputs[0]), 1, 2):
            part = [x[:rows] for x in inputs]
            expected = function(*part)
            found = run(*part)
            for one, other in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
                torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str, dtype: torch.dtype) -> None:
    """Many equal elements, so that the position of the first one matters; NaN and infinities among floats."""
    drawn = torch.randint(-2, 3, (4, 5, 7), generator=generator(len(name)))
    x = drawn.to(dtype) if dtype is not torch.bool else drawn > 0
    if dtype is torch.float32:
        x[2, 1, 3], x[1, 2, 2], x[1, 0, 0] = math.nan, math.inf, -math.inf
    if dtype is torch.bool and name in ("where the largest is", "where the smallest is"):
        pytest.skip("torch has no position of a mask's extreme")
    _same(FOLDS[name], [x], exact=True)


@pytest.mark.parametrize("name", FLOATS)
def test_float_folds(name: str) -> None:
    x = torch.randn(4, 5, 7, generator=generator(len(name)))
    _same(FLOATS[name], [x], exact=False)
    x[3, 2, 1], x[2, 0] = math.nan, 1e30
    _same(FLOATS[name], [x], exact=False)


#: Of float32 [B, 5, 7] and whole numbers [B, 6] below 5: functions of the number of a row.
ROWS: dict[str, Function] = {
    "row numbers": lambda x, i: torch.arange(x.shape[0]),
    "row numbers, from and by": lambda x, i: torch.arange(0, 2 * x.shape[0], 2),
    "row numbers in arithmetic": lambda x, i: torch.arange(x.shape[0]).unsqueeze(1) * i,
    "row numbers as floats": lambda x, i: torch.arange(x.shape[0], dtype=torch.float32)[:, None] + x[:, 0],
    "one row each": lambda x, i: x[torch.arange(x.shape[0]), i[:, 0]],
    "the last of each": lambda x, i: x[torch.arange(x.shape[0]), -1],
    "several of each": lambda x, i: x[torch.arange(x.shape[0]).unsqueeze(1), i],
    "one column each": lambda x, i: x[torch.arange(x.shape[0]), :, i[:, 1]],
    "every row": lambda x, i: x[torch.arange(x.shape[0])] + 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_row_numbers(name: str) -> None:
    rng = generator(5)
    x, i = torch.randn(4, 5, 7, generator=rng), torch.randint(0, 5, (4, 6), generator=rng)
    _same(ROWS[name], [x, i], exact=True)


def test_row_numbers_of_many_blocks() -> None:
    """Rows keep their number when a plan takes them in blocks."""
    x = torch.zeros(3000, 2)
    for run in lower_everywhere(lambda x: torch.arange(x.shape[0])[:, None] + x, [x]):
        torch.testing.assert_close(run(x)[0], torch.arange(3000.0)[:, None].expand(-1, 2))


#: Of float32 [B, 5, 7].
LAYOUTS: dict[str, Function] = {
    "viewed as another": lambda x: (x[:, :, :6] * 2).reshape_as(x[:, :, :6].reshape(-1, 6, 5)).view_as(x[:, :, 1:]),
    "of another's dtype": lambda x: (x > 0).type_as(x) + 1,
    "expanded like another": lambda x: x[:, :1].expand_as(x) + 1,
    "broadcast": lambda x: x[:, :1].broadcast_to(x.shape) + 1,
    "axes swapped": lambda x: x.swapaxes(1, 2) + 1,
    "an axis moved": lambda x: x.unflatten(2, (7, 1)).movedim(1, -1) + 1,
    "a matrix turned": lambda x: x.mT + 1,
    "narrowed": lambda x: x.narrow(1, 1, 3) + 1,
    "diagonal": lambda x: x.diagonal(1, 1, 2) + 1,
    "diagonal below": lambda x: x.diagonal(-2, 2, 1) + 1,
    "windows": lambda x: x.unfold(2, 3, 2).sum(-1),
    "turned round": lambda x: x.flip((1, 2)),
    "rolled": lambda x: x.roll(2, 1) + x.roll(-1, -1),
    "padded": lambda x: functional.pad(x, (1, 2)),
    "padded in front": lambda x: functional.pad(x, (0, 0, 1, 0), value=-3.5),
    "padded and cut": lambda x: functional.pad(x, (-1, 2, 1, -1)),
    "whole numbers padded": lambda x: functional.pad((x * 3).long(), (2, 0), value=7),
    "times a vector": lambda x: x @ torch.tensor([1.0, -1, 2, 0, 1, 1, 3]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    x = torch.randn(4, 5, 7, generator=generator(6))
    state = name == "times a vector"
    if state:
        vector = torch.randn(7, generator=generator(7))
        for run in lower_everywhere(lambda x, v: x @ v, [x], [vector]):
            torch.testing.assert_close(run(x)[0], x @ vector)
        return
    _same(LAYOUTS[name], [x], exact=name != "windows")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 3, 2)])
def test_batch_norm_with_stored_statistics(shape: tuple[int, ...], affine: bool) -> None:
    rng = generator(8)
    x = torch.randn(shape, generator=rng)
    x[1, 2], x[0, 1] = math.nan, math.inf
    weight, bias, mean = (torch.randn(5, generator=rng) for _ in range(3))
    variance = torch.rand(5, generator=rng)

    def norm(x: torch.Tensor, *state: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x.relu(), *state[:2], *(state[2:] if affine else (None, None)), eps=1e-3)

    state = [mean, variance, weight, bias]
    for run in lower_everywhere(norm, [x], state):
        for rows in (4, 1):
            torch.testing.assert_close(run(x[:rows])[0], norm(x[:rows], *state), equal_nan=True)


@pytest.mark.parametrize(
    "function", [lambda x: x.sum(0), lambda x: x.argmax(0), lambda x: x.cumsum(0), lambda x: x.var(0)]
)
def test_what_folds_the_batch_stays_with_torch(function: Function) -> None:
    made = partition(program_of(function, [torch.randn(4, 5)]), LEVELS[0])
    assert any("over the batch" in reason for reason in made.refused.values())
