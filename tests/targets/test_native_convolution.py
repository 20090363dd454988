"""Convolutions and pools: every size, stride, padding, dilation and number of groups, at every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, generator, lower_everywhere, near, needs_kernels, partition, program_of, relaxed, seeds
from torch import Tensor

pytestmark = needs_kernels

BATCH = torch.export.Dim("batch", min=1, max=100)

#: Of images [B, 4, 7, 5], sequences [B, 4, 9] and weights by shape.
CASES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], list[tuple[int, ...]]]] = {
    "width 1": (F.conv1d, (4, 9), [(6, 4, 1), (6,)]),
    "width 3": (F.conv1d, (4, 9), [(6, 4, 3), (6,)]),
    "without a bias": (F.conv1d, (4, 9), [(6, 4, 2)]),
    "steps": (lambda x, w, b: F.conv1d(x, w, b, stride=2), (4, 9), [(6, 4, 3), (6,)]),
    "padding": (lambda x, w, b: F.conv1d(x, w, b, padding=2), (4, 9), [(6, 4, 3), (6,)]),
    "same": (lambda x, w, b: F.conv1d(x, w, b, padding="same"), (4, 9), [(6, 4, 4), (6,)]),
    "valid": (lambda x, w, b: F.conv1d(x, w, b, padding="valid"), (4, 9), [(6, 4, 4), (6,)]),
    "spread": (lambda x, w, b: F.conv1d(x, w, b, dilation=2), (4, 9), [(6, 4, 3), (6,)]),
    "groups": (lambda x, w, b: F.conv1d(x, w, b, groups=2), (4, 9), [(6, 2, 3), (6,)]),
    "each channel alone": (lambda x, w: F.conv1d(x, w, groups=4, padding=1), (4, 9), [(4, 1, 3)]),
    "causal": (lambda x, w: F.conv1d(F.pad(x, (4, 0)), w, dilation=2), (4, 9), [(4, 4, 3)]),
    "all": (lambda x, w: F.conv1d(x, w, None, 2, 3, 2, 2), (4, 9), [(6, 2, 3)]),
    "channels last": (lambda x, w: F.conv1d(x.transpose(1, 2), w).transpose(1, 2), (9, 4), [(6, 4, 3)]),
    "two columns of windows": (lambda x, w: F.conv2d(x.unsqueeze(1), w), (9, 5), [(3, 1, 2, 4)]),
    "one row of windows": (lambda x, w: F.conv2d(x.unsqueeze(1), w), (9, 21), [(3, 1, 9, 4)]),
    "one column of windows": (lambda x, w: F.conv2d(x.unsqueeze(1), w), (30, 1), [(3, 1, 4, 1)]),
    "rows of vectors": (lambda x, w: F.conv2d(x.unsqueeze(1), w).squeeze(3), (9, 5), [(3, 1, 2, 5)]),
    "columns": (lambda x, w: F.conv2d(x.unsqueeze(1), w), (9, 5), [(3, 1, 9, 1)]),
    "images": (F.conv2d, (4, 7, 5), [(6, 4, 3, 2), (6,)]),
    "images, all": (lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2), (4, 7, 5), [(6, 2, 3, 2), (6,)]),
    "images, same": (lambda x, w: F.conv2d(x, w, padding="same"), (4, 7, 5), [(6, 4, 3, 2)]),
    "largest of windows": (lambda x: F.max_pool1d(x, 3), (4, 9), []),
    "largest of all": (lambda x: F.max_pool1d(x, 9).squeeze(2), (4, 9), []),
    "largest, all": (lambda x: F.max_pool1d(x, 3, stride=2, padding=1, dilation=2), (4, 9), []),
    "largest of images": (lambda x: F.max_pool2d(x, (3, 2), stride=1, padding=1), (4, 7, 5), []),
    "means of windows": (lambda x: F.avg_pool1d(x, 3, stride=2), (4, 9), []),
    "means of images": (lambda x: F.avg_pool2d(x, (3, 2)), (4, 7, 5), []),
    "largest, the rest too": (lambda x: F.max_pool1d(x, 4, ceil_mode=True), (4, 9), []),
    "largest, no window behind": (lambda x: F.max_pool1d(x, 2, stride=3, ceil_mode=True), (4, 9), []),
    "largest, the rest behind padding": (lambda x: F.max_pool1d(x, 3, 3, 1, 2, ceil_mode=True), (4, 9), []),
    "largest of images, the rest too": (lambda x: F.max_pool2d(x, (2, 3), (2, 2), (1, 0), 1, True), (4, 7, 5), []),
    "means, no rest": (lambda x: F.avg_pool1d(x, 3, ceil_mode=True), (4, 9), []),
    "means with padding": (lambda x: F.avg_pool1d(x, 3, 2, 1), (4, 9), []),
    "means of images with padding": (lambda x: F.avg_pool2d(x, 3, 1, (1, 0)), (4, 7, 5), []),
    "mean of everything": (lambda x: F.adaptive_avg_pool2d(x, 1), (4, 7, 5), []),
    "means of three parts": (lambda x: F.adaptive_avg_pool1d(x, 3), (4, 9), []),
    "means of one side": (lambda x: F.adaptive_avg_pool2d(x, (None, 1)), (4, 7, 5), []),
    "largest of three parts": (lambda x: F.adaptive_max_pool1d(x, 3), (4, 9), []),
    "largest of everything": (lambda x: F.adaptive_max_pool2d(x, 1), (4, 7, 5), []),
    "long rows": (lambda x, w, b: F.conv1d(x, w, b, padding=1), (3, 70), [(5, 3, 3), (5,)]),
    "long rows, groups": (lambda x, w: F.conv1d(x, w, dilation=2, groups=2), (4, 33), [(6, 2, 3)]),
    "columns of wide images": (lambda x, w, b: F.conv2d(x, w, b, padding=(2, 0)), (2, 9, 16), [(7, 2, 3, 1), (7,)]),
    "wide images": (lambda x, w, b: F.conv2d(x, w, b, (2, 1), 1), (3, 9, 21), [(9, 3, 3, 3), (9,)]),
    "wide images, spread": (lambda x, w: F.conv2d(x, w, None, 1, 2, (2, 3)), (2, 6, 17), [(4, 2, 3, 2)]),
    "every other column of images": (lambda x, w: F.conv2d(x[..., ::2], w), (2, 6, 17), [(4, 2, 3, 2)]),
    "part of the channels": (lambda x, w: F.conv2d(x[:, 1:3], w, padding=1), (4, 6, 17), [(3, 2, 3, 3)]),
    "largest after a convolution": (lambda x, w: F.max_pool1d(F.conv1d(x, w).relu(), 7), (4, 9), [(6, 4, 3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_torch(name: str) -> None:
    function, shape, state = CASES[name]
    rng = generator(7)
    x = torch.randn(3, *shape, generator=rng)
    weights = [torch.randn(size, generator=rng) for size in state]
    for run in lower_everywhere(function, [x], weights, dynamic_shapes=(({0: BATCH},),)):
        for rows in (1, 3):
            wanted = function(x[:rows], *weights)
            torch.testing.assert_close(run(x[:rows])[0], wanted.contiguous(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["padding", "images, all", "rows of vectors", "largest of images"])
def test_one_row_of_fixed_shape(name: str) -> None:
    function, shape, state = CASES[name]
    rng = generator(8)
    x = torch.randn(1, *shape, generator=rng)
    near(function, [x], [torch.randn(size, generator=rng) for size in state], 1e-5, 1e-5, dynamic_shapes=False)


@given(data=st.data(), seed=seeds)
@relaxed
def test_any_window(data: st.DataObject, seed: int) -> None:
    rng = generator(seed)
    size, spread, groups = (data.draw(st.integers(1, n)) for n in (4, 3, 2))
    padding, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    length = data.draw(st.integers(max(1, spread * (size - 1) + 1 - 2 * padding), 90))
    channels, made = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    x = torch.randn(2, channels, length, generator=rng)
    weight = torch.randn(made, channels // groups, size, generator=rng)
    near(lambda x, w: F.conv1d(x, w, None, step, padding, spread, groups), [x], [weight], 1e-4, 1e-5)


REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "means of fewer elements at the end": lambda x: F.avg_pool1d(x, 4, ceil_mode=True),
    "means of fewer elements at the edges": lambda x: F.avg_pool1d(x, 3, padding=1, count_include_pad=False),
    "parts of several sizes": lambda x: F.adaptive_avg_pool1d(x, 2),
    "positions of the largest": lambda x: F.adaptive_max_pool1d(x, 3, return_indices=True)[1] * x[:, :, :3],
    "many groups": lambda x: F.conv1d(x.repeat(1, 5, 1), torch.ones(20, 1, 3), groups=20),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_with_torch(name: str) -> None:
    x = torch.randn(3, 4, 9)
    made = partition(program_of(REFUSED[name], [x], dynamic_shapes=(({0: BATCH},),)), LEVELS[0])
    assert made.refused
