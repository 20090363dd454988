"""Bits of ids, as models hash them: bitwise operators with a number, and shifts, of both types of integers, at every level."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import LEVELS, lower, lower_everywhere, needs_kernels, partition, program_of
from torch import Tensor

from recfx.runtime.flat import flat_function

pytestmark = needs_kernels

Function = Callable[[Tensor], Tensor]

FUNCTIONS: dict[str, Function] = {
    "and": lambda x: x & 63,
    "and a negative number": lambda x: torch.bitwise_and(x, -8),
    "or": lambda x: x | 5,
    "or a negative number": lambda x: torch.bitwise_or(x, -(2**30)),
    "xor": lambda x: x ^ 21,
    "xor a negative number": lambda x: torch.bitwise_xor(x, -1),
    "shifted right": lambda x: x >> 3,
    "shifted right by nothing": lambda x: torch.bitwise_right_shift(x, 0),
    "shifted left": lambda x: x << 7,
    "shifted left far": lambda x: torch.bitwise_left_shift(x, 30),
    "the largest number": lambda x: (x * 2**53 % 2**53) + (x | 2**53) if x.dtype is torch.int64 else x,
    "hashed": lambda x: ((x ^ (x >> 7)) * 31 & 1023) % 17,
}


def _ids(dtype: torch.dtype) -> Tensor:
    """The ends of the type, numbers about zero, and others, in an odd number of columns."""
    ends = torch.iinfo(dtype)
    special = [ends.min, ends.min + 1, ends.max, ends.max - 1, 0, 1, -1, 2**30, -(2**30), 12345]
    drawn = torch.randint(ends.min, ends.max, (3 * 19 - len(special),), generator=torch.Generator().manual_seed(1))
    return torch.cat([torch.tensor(special), drawn]).to(dtype).reshape(3, 19)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits(name: str, dtype: torch.dtype) -> None:
    ids = _ids(dtype)
    for run in lower_everywhere(FUNCTIONS[name], [ids]):
        for rows in (ids, ids[:1]):
            (found,) = run(rows)
            assert found.dtype is dtype
            assert torch.equal(found, FUNCTIONS[name](rows))


def test_masks_with_numbers() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    for function in (lambda x: x ^ True, lambda x: x & True, lambda x: x | False, lambda x: x & 3):
        for run in lower_everywhere(function, [mask]):
            (found,) = run(mask)
            assert found.dtype is function(mask).dtype
            assert torch.equal(found, function(mask))


@settings(deadline=None, max_examples=20)
@given(
    data=st.data(),
    bits=st.integers(0, 30),
    number=st.integers(-(2**31), 2**31 - 1),
    operator=st.sampled_from([torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor]),
)
def test_drawn_bits(data: st.DataObject, bits: int, number: int, operator: Function) -> None:
    ids = torch.tensor([data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=9))]).T

    def hashed(x: Tensor) -> Tensor:
        return operator(x >> bits, number) + (operator(x, number) << bits)

    program = program_of(hashed, [ids])
    for level in LEVELS:
        assert torch.equal(lower(program, level)(ids)[0], hashed(ids)), level


@pytest.mark.parametrize(
    ("function", "dtype", "reason"),
    [
        (lambda x: x & (2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x ^ -(2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x == 2**53 + 1, torch.int64, "a large number"),
        (lambda x: x * (2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x.clamp(max=2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x.masked_fill(x > 3, 2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x.clamp(min=-(2**53) - 1), torch.int64, "its constant is too large"),
        (lambda x: x + (2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x // (2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: x % (2**53 + 1), torch.int64, "its constant is too large"),
        (lambda x: 2**53 + 1 - x, torch.int64, "its constant is too large"),
        (lambda x: x << 60, torch.int64, "its constant is too large"),
        (lambda x: x >> 31, torch.int32, "its constant exceeds int32"),
    ],
)
def test_numbers_that_a_plan_does_not_hold(function: Function, dtype: torch.dtype, reason: str) -> None:
    """Constants of a plan are doubles, and 2**53 + 1 becomes 2**53."""
    made = partition(program_of(function, [_ids(dtype)]), LEVELS[0])
    assert any(reason in refused for refused in made.refused.values())
    ids = torch.tensor([[2**53 + 1, 2**53, 2**53 + 2, 7] + [5] * 15]).to(dtype)
    assert torch.equal(flat_function(made.region)(ids)[0], function(ids))
