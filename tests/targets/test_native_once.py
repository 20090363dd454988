"""Values that are the same for every row are computed once a call, in memory of their own, and a call that fails ends early."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from native_kit import LEVELS, generator, lower, needs_kernels, partition, program_of

from recfx.ir import Program
from recfx.kernels.codes import ErrorCode
from recfx.kernels.library import library

pytestmark = needs_kernels
WIDTH = 160


@cache
def both_kinds() -> Program:
    """Steps of rows and steps of the whole call in turn. Steps of rows read temporaries of both kinds."""
    weight = torch.randn(WIDTH, WIDTH, generator=generator(0)) / 10

    def function(x: torch.Tensor, ids: torch.Tensor, shares: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        first = torch.softmax(x, 1)
        once = torch.softmax(shares * 2, 0)
        second = torch.softmax(first @ weight + torch.nn.functional.embedding(ids, weight), 1)
        rising = torch.cumsum(once, 0)
        third = torch.softmax(second * once, 1)
        return torch.cumsum(third * rising + first * second, 1) * once

    rows = {0: torch.export.Dim("batch", min=1, max=4096)}
    example = [torch.ones(4, WIDTH), torch.zeros(4, dtype=torch.int64), torch.ones(WIDTH)]
    return program_of(function, example, [weight], dynamic_shapes=((rows, rows, {}),))


@pytest.mark.parametrize("level", LEVELS)
def test_values_of_rows_and_of_the_call(level: str, threads: Callable[[int], None]) -> None:
    """A team shares the steps of few rows, and the rows of many."""
    program, rng = both_kinds(), generator(1)
    run = lower(program, level)
    for rows in (1, 2, 7, 24, 25, 300):
        x, shares = torch.randn(rows, WIDTH, generator=rng), torch.randn(WIDTH, generator=rng)
        ids = torch.randint(0, WIDTH, (rows,), generator=rng)
        (expected,) = program.run([x, ids, shares])
        for team in (1, 2, 3):
            threads(team)
            torch.testing.assert_close(run(x, ids, shares)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("level", LEVELS)
def test_a_call_with_a_wrong_id_ends_with_its_block_of_rows(level: str) -> None:
    """The call is told of more rows than any memory holds. Only those of its first block are there."""
    (call,) = partition(both_kinds(), level).calls
    x, ids, shares, out = torch.ones(2**20), torch.full((2**13,), -1), torch.ones(WIDTH), torch.empty(2**20)
    held = {"inputs_0": x, "inputs_1": ids, "inputs_2": shares}
    assert {str(given) for given in call.args} == set(held)
    pointers = [held[str(given)].data_ptr() for given in call.args]
    assert library().run(call.target.plan.handle, 2**40, 1, *pointers, out.data_ptr()) == ErrorCode.BAD_ID  # type: ignore[union-attr]
