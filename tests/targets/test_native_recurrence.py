"""Recurrent layers over sequences with lengths, at every level: the reference is torch over packed sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_kit import lower_everywhere, needs_kernels
from torch import Tensor

from recfx.errors import InputError
from recfx.ops.recurrence import GATES, recurrence

pytestmark = needs_kernels

STEPS = 17


def operands(rows: int, inputs: int = 6) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, STEPS + 1, (rows,), generator=rng)
    lengths[0] = STEPS if rows > 2 else 1
    return torch.randn(rows, STEPS, inputs, generator=rng) * 2, lengths


def params_of(cell: str, hidden: int, inputs: int = 6, *, biases: bool = True) -> list[Tensor]:
    rng, rows = torch.Generator().manual_seed(hidden), GATES[cell] * hidden
    shapes: list[tuple[int, ...]] = [(rows, inputs), (rows, hidden), *[(rows,)] * (2 if biases else 0)]
    return [torch.randn(*shape, generator=rng) / (2 * hidden**0.5) for shape in shapes]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("hidden", [5, 33])
@pytest.mark.parametrize("cell", GATES)
def test_states_ends_and_zeros_are_those_of_torch(cell: str, hidden: int, backwards: bool) -> None:
    """Any number of rows gives the same bits, on any number of threads."""
    params = params_of(cell, hidden, biases=hidden == 5)

    def network(x: Tensor, lengths: Tensor, *held: Tensor) -> Tensor:
        return recurrence(x, lengths, None, None, list(held), cell, backwards) * 1.5

    inputs = operands(21)
    wanted = network(*inputs, *params)
    before = torch.get_num_threads()
    for run in lower_everywhere(network, list(inputs), params):
        whole = run(*inputs)[0]
        torch.testing.assert_close(whole, wanted, rtol=1e-5, atol=1e-5)
        past = torch.arange(STEPS) >= inputs[1][:, None]
        assert not whole[:, :STEPS][past].any()
        try:
            for threads, rows in ((1, 1), (1, 3), (3, 2), (3, 21)):
                torch.set_num_threads(threads)
                assert torch.equal(run(*(t[:rows] for t in inputs))[0], whole[:rows])
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_first_states_and_computed_lengths(cell: str) -> None:
    params = params_of(cell, 7)

    def network(x: Tensor, ids: Tensor, *held: Tensor) -> Tensor:
        state = x[:, 0, :1].expand(-1, 7) * 0.5
        memory = x[:, 1, :1].expand(-1, 7) * 2 if cell == "lstm" else None
        return recurrence(x, (ids != 0).sum(1), state, memory, list(held), cell, True).relu()

    x, lengths = operands(9)
    ids = (torch.arange(STEPS) < lengths[:, None]).long() * 3
    for run in lower_everywhere(network, [x, ids], params):
        for rows in (1, 9):
            torch.testing.assert_close(
                run(x[:rows], ids[:rows])[0], network(x[:rows], ids[:rows], *params), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("first", ["x", "lengths", "state", "memory"])
def test_each_operand_may_be_the_first_slot_of_a_plan(first: str) -> None:
    """An operator before the layer reads the operand first, which gives it slot 0; a negative slot is an absent operand."""
    names = [first, *(name for name in ("x", "lengths", "state", "memory") if name != first)]
    params = params_of("lstm", 7)
    x, lengths = operands(5)
    values = {
        "x": x,
        "lengths": lengths,
        "state": x[:, 0, :1].expand(-1, 7) * 3,
        "memory": x[:, 1, :1].expand(-1, 7) * 2,
    }

    def network(a: Tensor, b: Tensor, c: Tensor, d: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, (a, b, c, d), strict=True))
        return a * 2, recurrence(*(given[name] for name in values), list(held), "lstm", False).relu()

    inputs = [values[name].contiguous() for name in names]
    for run in lower_everywhere(network, inputs, params):
        for found, wanted in zip(run(*inputs), network(*inputs, *params), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [0, -1, STEPS + 1, 1 << 40])
def test_wrong_lengths_are_refused(length: int) -> None:
    params = params_of("gru", 5)

    def network(x: Tensor, lengths: Tensor, *held: Tensor) -> Any:
        return recurrence(x, lengths, None, None, list(held), "gru", False) + 1

    x, lengths = operands(6)
    for run in lower_everywhere(network, [x, lengths], params):
        wrong = lengths.clone()
        wrong[4] = length
        with pytest.raises(InputError, match=rf"length {length} of row 4 is not from 1 to {STEPS}"):
            run(x, wrong)
