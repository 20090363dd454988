"""Top-k and sorts at every level against torch, equal elements and NaN included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import LEVELS, generator, lower_everywhere, needs_kernels, partition, program_of, relaxed, seeds

pytestmark = needs_kernels

Function = Callable[..., Any]

#: Of any tensor [B, 5, 7].
ORDERS: dict[str, Function] = {
    "top": lambda x: tuple(x.topk(3)),
    "top of the middle": lambda x: tuple(x.topk(2, dim=1)),
    "least": lambda x: tuple(x.topk(3, largest=False)),
    "all": lambda x: tuple(x.topk(7)),
    "one": lambda x: tuple(x.topk(1, dim=1)),
    "values alone": lambda x: x.topk(3, dim=1).values,
    "positions alone": lambda x: x.topk(3, 2).indices,
    "unsorted": lambda x: tuple(x.topk(4, sorted=False)),
    "of another order in memory": lambda x: tuple(x.transpose(1, 2).topk(3)),
    "of every other column": lambda x: tuple(x[:, 1:, ::2].topk(2)),
    "of a broadcast axis": lambda x: tuple(x[:, :, :1].expand(-1, -1, 4).topk(2)),
    "sort": lambda x: tuple(x.sort()),
    "sort of the middle": lambda x: tuple(x.sort(dim=1, descending=True)),
    "stable sort": lambda x: tuple(torch.sort(x, stable=True, dim=-1)),
    "stable sort, largest first": lambda x: tuple(torch.sort(x, stable=True, dim=1, descending=True)),
    "sorted positions": lambda x: x.argsort(),
    "sorted positions of the middle": lambda x: torch.argsort(x, dim=1, descending=True, stable=True),
    "in the order of the axis": lambda x: x.gather(1, x.topk(3, dim=1).indices.sort(dim=1).values),
    "in the order of the axis, least": lambda x: x.gather(2, x.topk(4, largest=False).indices.sort().values),
    "in the order of the axis, and sorted": lambda x: (x.topk(3).indices.sort().values, x.topk(3).values),
    "in falling order": lambda x: x.topk(3, dim=1).indices.sort(dim=1, descending=True).values,
    "sorted along another axis": lambda x: x.topk(3, dim=1).indices.sort(dim=2, stable=True).values,
    "sorted twice": lambda x: (lambda i: (i.sort().values, i.sort(descending=True).values))(x.topk(3).indices),
    "sorted and not": lambda x: (lambda i: (i.sort().values, i))(x.topk(3).indices),
    "sort of positions": lambda x: tuple(x.topk(5).indices.sort(dim=-1)),
    "the k-th": lambda x: x.sort(dim=2).values[:, :, 2],
}

#: Those that torch has for masks.
MASKS = {name for name in ORDERS if "sort" in name} - {"unsorted"}
MASKS -= {name for name in ORDERS if "sorted" in name and "positions" not in name} | {"sort of positions"}


def _same(function: Function, x: torch.Tensor, batches: tuple[int, ...]) -> None:
    for run in lower_everywhere(function, [x]):
        for rows in batches:
            expected = function(x[:rows])
            found = run(x[:rows])
            for one, other in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("name", ORDERS)
def test_orders(name: str, dtype: torch.dtype) -> None:
    """Many equal elements, NaN and infinities among floats, whole numbers beyond 32 bits."""
    if dtype is torch.bool and name not in MASKS:
        pytest.skip("torch has no top-k of masks")
    drawn = torch.randint(-3, 4, (40, 5, 7), generator=generator(len(name)))
    x = drawn.to(dtype) if dtype is not torch.bool else drawn > 0
    if dtype is torch.float32:
        x[2, 1, 3], x[1, 2, 2], x[1, 0, 0], x[0, 0, 1] = math.nan, math.inf, -math.inf, -0.0
        x[20:] = torch.randn(20, 5, 7, generator=generator(1))
    if dtype is torch.int64:
        x[20:] *= 2**40
    _same(ORDERS[name], x, (40, 1, 2))


@relaxed
@given(st.data(), seeds)
def test_random_lists(data: st.DataObject, seed: int) -> None:
    """Lists of any length, with few or many different elements."""
    length = data.draw(st.sampled_from([1, 2, 16, 17, 64, 130, 161, 400]))
    count = data.draw(st.integers(1, length))
    kinds = data.draw(st.sampled_from([2, length, 10**6]))
    largest, middle = data.draw(st.booleans()), data.draw(st.booleans())
    x = torch.randint(0, kinds, (3, length, 5) if middle else (19, length), generator=generator(seed)).float()
    if data.draw(st.booleans()):
        x[torch.rand(x.shape, generator=generator(seed + 1)) < 0.05] = math.nan
    _same(lambda x: tuple(x.topk(count, dim=1, largest=largest)), x, (len(x), 1))
    _same(lambda x: tuple(torch.sort(x, stable=True, dim=1, descending=largest)), x, (len(x), 1))


def test_threads_share_the_lists() -> None:
    x = torch.randn(700, 33, 6, generator=generator(3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        _same(lambda x: tuple(x.topk(9, dim=1)), x, (700, 2))
    finally:
        torch.set_num_threads(before)


#: Function of float32 [B, 40] -> a part of the reason why torch runs it.
REFUSED: dict[str, tuple[Function, str]] = {
    "positions of an unstable sort": (lambda x: x.sort(dim=1).indices + 1, "order of its own"),
    "unstable positions": (lambda x: x.argsort(dim=1) + 1, "order of its own"),
    "the batch": (lambda x: x.topk(1, dim=0).values + x, "orders the batch"),
    "nothing": (lambda x: x.topk(0, dim=1).values.sum(1) + x[:, 0], "no"),
    "half precision": (lambda x: x.to(torch.float16).topk(3).values.float(), "float16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_keeps(name: str) -> None:
    function, reason = REFUSED[name]
    made = partition(program_of(function, [torch.randn(4, 40)]), LEVELS[0])
    assert any(reason in why for why in made.refused.values()), made.refused


def test_values_of_an_unstable_sort_are_native() -> None:
    _same(lambda x: x.sort(dim=1).values, torch.randint(0, 5, (6, 40)).float(), (6, 1))
