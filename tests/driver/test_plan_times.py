"""Plans measured in turns under a clock that the plans move: the fastest plan at each batch size, and the sizes between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.driver.placed import Placed, lower_regions
from recfx.driver.plan_times import Contest, compared_sizes
from recfx.ir.program import Program
from recfx.ir.region import split
from recfx.targets import EagerBackend
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def program(shape: Any = ("batch", 2), batch: int = 4, max_batch: int = 65536) -> Program:
    b = GraphBuilder({"x": shape}, max_batch=max_batch)
    return b.build(b.call(aten.relu.default, b.inputs["x"]), batch=batch)


class Clock:
    """A clock in nanoseconds that plans move."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def plan(self, of: Program, seconds: Callable[[int], float]) -> Placed:
        """A plan that takes some seconds for a number of rows."""
        found = split(of, dict.fromkeys(_calls(of), "eager"))
        placed = Placed.of(found, lower_regions(found, lambda index, region: EagerBackend().lower(region)))

        def run(x: torch.Tensor) -> Any:
            self.now += round(seconds(x.shape[0]) * 1e9)
            return placed.run(x)

        return Placed(placed.split, placed.regions, run)


def _calls(of: Program) -> list[Any]:
    return [node for node in of.graph.nodes if node.op == "call_function"]


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 1500))
def test_the_crossover_is_found_between_the_sizes(true: int) -> None:
    """The second plan has a fixed cost; the first one is kept as long as it takes at most 2 % longer."""
    clock, of = Clock(), program()
    plans = [clock.plan(of, lambda rows: 1e-3 * rows), clock.plan(of, lambda rows: 1e-3 * (true - 0.5) / 1.02)]
    sizes = compared_sizes(of)
    choice = Contest(plans, 1e9, lambda rows: 0, clock).choose(sizes)
    if true > max(sizes):
        assert (choice.bounds, choice.uses) == ((), (0,))
        return
    assert choice.uses == (0, 1)
    low = max(size for size in (1, *sizes) if size < true)
    high = min(size for size in sizes if size >= true)
    assert low < choice.bounds[0] <= high
    assert max(choice.bounds[0] / true, true / choice.bounds[0]) <= (high / low) ** 0.2 * 1.5
    assert choice.seconds[0][1] == pytest.approx(1e-3)


def test_a_plan_that_is_hardly_faster_does_not_replace_the_first() -> None:
    clock, of = Clock(), program()
    for gain, expected in ((0.99, 0), (0.9, 1)):
        plans = [clock.plan(of, lambda rows: 1e-3), clock.plan(of, lambda rows, gain=gain: 1e-3 * gain)]
        assert Contest(plans, 1e9, lambda rows: 0, clock).choose((1, 64)).uses == (expected,)


def test_the_guess_decides_when_the_time_is_up() -> None:
    clock, of = Clock(), program()
    plans = [clock.plan(of, lambda rows: 1e-3), clock.plan(of, lambda rows: 1.0)]
    choice = Contest(plans, -1.0, lambda rows: int(rows >= 100), clock).choose((1, 16, 128))
    assert choice.uses == (0, 1)
    assert 16 < choice.bounds[0] <= 128
    assert not any(choice.seconds.values())


def test_a_plan_that_fails_is_not_chosen_and_its_error_is_kept() -> None:
    clock, of = Clock(), program()

    def broken(rows: int) -> float:
        if rows > 10:
            raise RuntimeError("engine of ten rows")
        return 1e-6

    contest = Contest([clock.plan(of, lambda rows: 1e-3), clock.plan(of, broken)], 1e9, lambda rows: 0, clock)
    choice = contest.choose((16, 64))
    assert choice.uses == (0,)
    assert "engine of ten rows" in contest.failed[1]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (program(), (1, 4, 16, 128, 1024)),
        (program(batch=20), (1, 20, 128, 1024)),
        (program(batch=3000), (1, 16, 128, 1024, 3000)),
        (program(max_batch=50), (1, 4, 16, 50)),
        (program(max_batch=1, batch=1), (1,)),
        (program((3, 2)), (3,)),
        (program((2, "batch")), (1, 4, 16, 128, 1024)),
    ],
)
def test_the_sizes_that_are_compared(made: Program, expected: tuple[int, ...]) -> None:
    assert compared_sizes(made) == expected
