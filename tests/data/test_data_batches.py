"""Batches: every row once, a new order in each pass, the same orders for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import Batches, tensor_batches
from recfx.errors import DataError


@given(st.integers(1, 60), st.integers(1, 70), st.booleans(), st.integers(0, 1000))
def test_every_row_comes_once(n: int, size: int, shuffle: bool, seed: int) -> None:
    x = torch.arange(n)
    batches = tensor_batches(x, 2 * x, batch_size=size, shuffle=shuffle, seed=seed)
    got = list(batches)
    assert len(got) == len(batches)
    assert all(torch.equal(b, 2 * a) for a, b in got)
    assert [len(a) for a, _ in got[:-1]] == [size] * (len(got) - 1)
    order = torch.cat([a for a, _ in got])
    assert torch.equal(order.sort().values if shuffle else order, x)


@given(st.integers(1, 60), st.integers(1, 60))
def test_drop_last_keeps_full_batches_only(n: int, size: int) -> None:
    batches = tensor_batches(torch.arange(n), batch_size=size, drop_last=True)
    got = list(batches)
    assert len(got) == len(batches) == n // size
    assert all(len(a) == size for (a,) in got)


def test_orders_change_with_the_pass_and_repeat_with_the_seed() -> None:
    def passes(seed: int) -> list[list[int]]:
        batches = Batches(50, lambda rows: rows, 8, seed=seed)
        return [torch.cat(list(batches)).tolist() for _ in range(2)]

    assert passes(1) == passes(1)
    assert passes(1)[0] != passes(1)[1]
    assert passes(1) != passes(2)


def test_batches_of_tensors_are_shuffled_whole_and_reproducible_by_default() -> None:
    rows = torch.arange(50)

    def order(**options: Any) -> list[int]:
        return [int(row) for (part,) in tensor_batches(rows, batch_size=8, **options) for row in part]

    assert order() == order(shuffle=True, seed=0, drop_last=False)
    assert order() != order(seed=1)
    assert order(shuffle=False) == rows.tolist()
    assert sorted(order()) == rows.tolist()


def test_bad_arguments() -> None:
    for n, size in ((0, 5), (5, 0)):
        with pytest.raises(DataError, match="cannot make batches"):
            Batches(n, lambda rows: rows, size)
    with pytest.raises(DataError, match=r"rows \[3, 4\]"):
        tensor_batches(torch.zeros(3), torch.zeros(4), batch_size=2)
    with pytest.raises(DataError, match="batched together"):
        tensor_batches(batch_size=2)
