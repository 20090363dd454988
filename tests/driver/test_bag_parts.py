"""Calls of models over bags with more rows than `max_batch`: divided by bags where rows are independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bag_models import FORMS, generator, lengths_of, starts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.errors import InputError

MOST = 8

#: Forms without a lookup of bags, or with bags in rows of one matrix, which hold equally many ids.
NOT_DIVIDED = {"matrices of offsets and ids", "repeat_interleave", "row splits", "segment_reduce"}


def optimized(name: str, target: str = "cpu") -> tuple[nn.Module, recfx.CompiledModel, Callable[..., tuple[Any, ...]]]:
    torch.manual_seed(0)
    make, draw = FORMS[name]
    model = make().eval()
    rng = generator(3)
    example = draw(lengths_of(4, 3, rng), rng)
    return model, recfx.optimize(model, target, example_inputs=example, max_batch=MOST, measure=False), draw


@pytest.mark.parametrize("name", [name for name in FORMS if name not in NOT_DIVIDED])
def test_any_number_of_bags(name: str) -> None:
    model, fast, draw = optimized(name)
    for batch in (MOST, MOST + 1, 29):
        rng = generator(batch)
        inputs = draw(lengths_of(batch, 3, rng), rng)
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["offsets", "weights, include_last_offset", "a matrix of lengths"])
def test_bags_on_the_eager_target(name: str) -> None:
    model, fast, draw = optimized(name, "eager")
    rng = generator(0)
    inputs = draw(lengths_of(21, 3, rng), rng)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NOT_DIVIDED))
def test_other_forms_say_why(name: str) -> None:
    _, fast, draw = optimized(name)
    rng = generator(0)
    with pytest.raises(InputError, match=r"above max_batch = 8, and cannot be run in parts: \w+"):
        fast(*draw(lengths_of(MOST + 1, 3, rng), rng))


@pytest.fixture(scope="module")
def weighted() -> tuple[nn.Module, recfx.CompiledModel, Callable[..., tuple[Any, ...]]]:
    return optimized("weights")


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=40), seed=st.integers(0, 2**16))
def test_any_lengths(weighted: Any, lengths: list[int], seed: int) -> None:
    model, fast, draw = weighted
    inputs = draw(torch.tensor([lengths]).expand(3, -1), generator(seed))
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


class Bags(nn.Module):
    """A bag whose ids, offsets or result a function changes."""

    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.bag = nn.EmbeddingBag(40, 4, mode="sum")

    def forward(self, dense: Any, ids: Any, offsets: Any) -> Any:
        return self.body(self.bag, dense, ids, offsets)


APART: dict[str, Callable[..., Any]] = {
    "the number of ids": lambda bag, dense, ids, offsets: bag(ids, offsets) / ids.shape[0],
    "the ids of other bags": lambda bag, dense, ids, offsets: bag(ids, offsets) * ids.float().mean(),
    "a mean over bags": lambda bag, dense, ids, offsets: bag(ids, offsets) - bag(ids, offsets).mean(0),
    "bags in another order": lambda bag, dense, ids, offsets: bag(ids, offsets).flip(0),
    "ids in another order": lambda bag, dense, ids, offsets: bag(ids.flip(0), offsets),
    "offsets as numbers": lambda bag, dense, ids, offsets: bag(ids, offsets) + offsets[:, None],
    "neighbours": lambda bag, dense, ids, offsets: bag(ids, offsets) * dense[:, :1].roll(1, 0),
}


@pytest.mark.parametrize("name", APART)
def test_bags_that_depend_on_one_another_are_not_divided(name: str) -> None:
    lengths = torch.tensor([2, 0, 3, 1])
    example = (torch.randn(4, 3), torch.randint(0, 40, (6,)), starts(lengths))
    fast = recfx.optimize(Bags(APART[name]).eval(), example_inputs=example, max_batch=MOST, measure=False)
    with pytest.raises(InputError, match="cannot be run in parts"):
        fast(torch.randn(9, 3), torch.randint(0, 40, (18,)), torch.arange(9) * 2)


@pytest.mark.parametrize(
    ("offsets", "problem"),
    [([1, 2, 4, 4, 5, 6, 7, 8, 9], "start at 0"), ([0, 3, 2, 4, 5, 6, 7, 8, 9], "do not fall")],
)
def test_wrong_bounds_are_refused(weighted: Any, offsets: list[int], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        weighted[1](torch.randn(9, 3), torch.zeros(12, dtype=torch.int64), torch.tensor(offsets), torch.ones(12))


def test_ids_behind_the_last_bag_are_refused() -> None:
    _, fast, _ = optimized("include_last_offset")
    with pytest.raises(InputError, match="2 ids stand after the last bag"):
        fast(torch.randn(9, 3), torch.zeros(20, dtype=torch.int64), torch.arange(10) * 2)


def test_bad_ids_of_a_later_part_are_refused(weighted: Any) -> None:
    ids = torch.zeros(18, dtype=torch.int64)
    ids[17] = 99
    with pytest.raises(InputError, match="99"):
        weighted[1](torch.randn(9, 3), ids, torch.arange(9) * 2, torch.ones(18))
