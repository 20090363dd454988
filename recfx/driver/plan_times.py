"""Measures the plans of a program at several batch sizes, in turns, and finds the batch sizes at which another plan becomes faster."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from recfx.cost.timing import compare
from recfx.driver.placed import Placed
from recfx.errors import MeasureError
from recfx.ir.probes import has_fixed_bags, reshuffle
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH
from recfx.runtime.choice import rows_code

#: Batch sizes at which plans are compared, where the model takes them.
SIZES = (1, 16, 128, 1024)
#: Seconds of a comparison of all plans at one size, and of two plans between two sizes.
_SECONDS, _BETWEEN_SECONDS = 0.5, 0.15
#: Seconds of the calls of one region, and the fewest calls that are timed.
_REGION_SECONDS, _FEWEST = 0.02, 3
#: Plans that take this many times as long as the fastest one in a single call are not compared.
_MUCH_SLOWER = 1.5
#: A plan that is preferred for other reasons is kept if it takes at most this many times as long as the fastest one.
_CLOSE = 1.02
#: Between two batch sizes with different fastest plans, this many sizes are tried.
_STEPS = 3


def rows_of(program: Program, leaves: Sequence[Any]) -> int:
    """The batch size of flat inputs; the first size of the first tensor if the program has no batch."""
    sizes = program.signature.check(leaves)
    if BATCH in sizes:
        return sizes[BATCH]
    return next((int(leaf.shape[0]) for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim), 1)


def compared_sizes(program: Program) -> tuple[int, ...]:
    """The batch sizes at which plans are compared: those of SIZES that the program takes, and the example's in place of those near it.

    A program without a batch that a leaf gives has one size, the example's.
    """
    example = rows_of(program, program.example)
    signature = program.signature
    if rows_code(signature) is None or has_fixed_bags(program):
        return (example,)
    low, high = signature.dims[BATCH]
    top = high if high is not None else max(SIZES)
    found = sorted({min(max(size, low), top) for size in SIZES})
    inner = [size for size in found[1:-1] if not example / 2 <= size <= example * 2]
    return tuple(sorted({found[0], *inner, example, found[-1]}))


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which plan runs at which batch size.

    Attributes:
        bounds: The first batch size of each range but the first.
        uses: The plan of each range.
        seconds: Plan -> batch size -> measured seconds of a call.
    """

    bounds: tuple[int, ...]
    uses: tuple[int, ...]
    seconds: Mapping[int, Mapping[int, float]]


class Contest:
    """Compares plans.

    Args:
        plans: The plans. The first one is kept where no other is clearly faster.
        deadline: When to stop measuring, in seconds of the clock.
        guess: Batch size -> the plan that is used if there is no time to measure any size.
        clock: Returns the time in nanoseconds.
    """

    def __init__(
        self,
        plans: Sequence[Placed],
        deadline: float,
        guess: Callable[[int], int],
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.plans, self.deadline, self.guess, self.clock = plans, deadline, guess, clock
        self.seconds: dict[int, dict[int, float]] = {index: {} for index in range(len(plans))}
        self.failed: dict[int, str] = {}
        self._program = plans[0].program
        self._example_rows = rows_of(self._program, self._program.example)

    def choose(self, sizes: Sequence[int]) -> Choice:
        """The fastest plan at each batch size, with the sizes between at which it changes."""
        best: dict[int, int] = {}
        for rows in sizes:
            best[rows] = self._fastest(rows, dict.fromkeys([0, *best.values()]), _SECONDS)
        best = {rows: 0 if index in self.failed else index for rows, index in best.items()}
        bounds: list[int] = []
        uses = [best[sizes[0]]]
        for low, high in itertools.pairwise(sizes):
            if best[high] != best[low]:
                bounds.append(self._crossover(low, high, best[low], best[high]))
                uses.append(best[high])
        return Choice(tuple(bounds), tuple(uses), self.seconds)

    def _crossover(self, low: int, high: int, below: int, above: int) -> int:
        """The first batch size of the second plan, between two sizes at which different plans are faster."""
        for _ in range(_STEPS):
            middle = round(math.sqrt(low * high))
            if not low < middle < high:
                break
            if self._fastest(middle, [below], _BETWEEN_SECONDS, (below, above)) == below:
                low = middle
            else:
                high = middle
        return high

    def _fastest(
        self, rows: int, preferred: Sequence[int] | dict[int, None], seconds: float, among: Sequence[int] | None = None
    ) -> int:
        """The fastest plan at a batch size; a preferred one if it is about as fast, and the last of these if the time is up."""
        if self.clock() > self.deadline * 1e9:
            return [*preferred][-1] if any(self.seconds.values()) else self.guess(rows)
        calls = self._calls(rows, range(len(self.plans)) if among is None else among)
        screened: dict[int, float] = {}
        for index, call in calls.items():
            try:
                screened[index] = _once(call, self.clock)
            except Exception as error:  # noqa: BLE001 - recorded below
                if index == 0:
                    return 0  # the program refuses these inputs, so this size is not measured
                self.failed[index] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if not screened:
            return 0
        limit = _MUCH_SLOWER * min(screened.values())
        left = {index: calls[index] for index, once in screened.items() if once <= limit}
        times = dict(screened)
        times |= self._compared(left, seconds)
        for index, measured in times.items():
            self.seconds[index][rows] = measured
        fastest = min(left, key=times.__getitem__)
        return next(
            (index for index in preferred if index in left and times[index] <= _CLOSE * times[fastest]), fastest
        )

    def _compared(self, left: dict[int, Callable[[], Any]], seconds: float) -> dict[int, float]:
        """Median seconds of plans that take turns. A plan that fails is taken out of `left`.

        Raises:
            MeasureError: The first plan fails.
        """
        while len(left) > 1:
            try:
                named = {str(index): call for index, call in left.items()}
                found = compare(named, seconds=seconds, min_rounds=3, clock=self.clock)
            except MeasureError as error:
                if error.where is None or int(error.where) == 0:
                    raise
                self.failed[int(error.where)] = error.what
                del left[int(error.where)]
            else:
                return {int(name): timing.median for name, timing in found.timings.items()}
        return {}

    def _calls(self, rows: int, among: Sequence[int] | range) -> dict[int, Callable[[], Any]]:
        leaves = self._leaves(rows)
        return {index: partial(self.plans[index].run, *leaves) for index in among if index not in self.failed}

    def _leaves(self, rows: int) -> list[Any]:
        if rows == self._example_rows:
            return list(self._program.example)
        return reshuffle(self._program, rows, torch.Generator().manual_seed(rows))


def _once(call: Callable[[], Any], clock: Callable[[], int], seconds: float = 0.0) -> float:
    """The least seconds of a few warm calls.

    Args:
        call: The call.
        clock: Returns the time in nanoseconds.
        seconds: Time for more calls than a few.
    """
    call()
    times: list[float] = []
    while sum(times) < (_BETWEEN_SECONDS if len(times) < _FEWEST else seconds):
        start = clock()
        call()
        times.append((clock() - start) / 1e9)
    return min(times)


def region_seconds(placed: Placed, leaves: Sequence[Any]) -> list[float]:
    """Measured seconds of each region of a plan in a call, one region after another.

    Args:
        placed: The plan.
        leaves: Its flat inputs.
    """
    values = {node.name: value for node, value in zip(placed.program.placeholders(), leaves, strict=True)}
    found = []
    with torch.no_grad():
        for region, lowered in zip(placed.split.regions, placed.regions, strict=True):
            run = partial(lowered.run, *(values[name] for name in region.inputs))
            values |= dict(zip(region.outputs, run(), strict=True))
            found.append(_once(run, time.perf_counter_ns, _REGION_SECONDS))
    return found
