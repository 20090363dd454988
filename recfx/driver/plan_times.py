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

from recfx.cost.race import race
from recfx.driver.placed import Placed
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
#: The share of the time until the deadline that one batch size may take, except the example's and the last one.
_SHARE = 0.4
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
        predicted: (plan, batch size) -> the predicted seconds of a call. Plans are tried in the order of what is expected from this and
            from the times at smaller sizes, and those for which there is no time are not.
    """

    def __init__(
        self,
        plans: Sequence[Placed],
        deadline: float,
        guess: Callable[[int], int],
        clock: Callable[[], int] = time.perf_counter_ns,
        predicted: Callable[[int, int], float] | None = None,
    ) -> None:
        self.plans, self.deadline, self.guess, self.clock = plans, deadline, guess, clock
        self.predicted = predicted
        self.seconds: dict[int, dict[int, float]] = {index: {} for index in range(len(plans))}
        self.failed: dict[int, str] = {}
        self._program = plans[0].program
        self._example_rows = rows_of(self._program, self._program.example)

    def choose(self, sizes: Sequence[int]) -> Choice:
        """The fastest plan at each batch size, with the sizes between at which it changes."""
        best: dict[int, int] = {}
        for rows in sizes:
            share = 1.0 if rows in (sizes[-1], self._example_rows) else _SHARE
            end = self._now() + share * (self.deadline - self._now())
            before = dict.fromkeys([0, *best.values()])
            latest = next(reversed(best.values()), None)
            best[rows] = self._fastest(rows, [*before], _SECONDS, end, latest)
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
            if self._fastest(middle, [below], _BETWEEN_SECONDS, self.deadline, below, (below, above)) == below:
                low = middle
            else:
                high = middle
        return high

    def _fastest(
        self,
        rows: int,
        preferred: Sequence[int],
        seconds: float,
        end: float,
        latest: int | None,
        among: Sequence[int] | None = None,
    ) -> int:
        """The fastest plan at a batch size; a preferred one if it is about as fast.

        If there is no time until `end`, it is `latest`, the plan of the next smaller size.
        """
        expected = self._expected(rows)
        if not self._has_time(expected, end):
            return latest if latest is not None and any(self.seconds.values()) else self.guess(rows)
        known = range(len(self.plans)) if among is None else among
        order = sorted((i for i in known if i not in self.failed), key=lambda i: (i != 0, expected.get(i, 0.0)))
        leaves = self._leaves(rows)
        found = race(
            {str(index): partial(self.plans[index].run, *leaves) for index in order},
            seconds=seconds,
            deadline=end,
            expected={str(index): time for index, time in expected.items()},
            kept=str(preferred[0]),
            clock=self.clock,
        )
        if "0" in found.failed:
            return 0  # the program refuses these inputs, so this size is not measured
        for name, error in found.failed.items():
            self.failed[int(name)] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        for name, measured in found.seconds.items():
            self.seconds[int(name)][rows] = measured
        fastest = found.seconds[found.left[0]]
        close = [int(name) for name in found.left if found.seconds[name] <= _CLOSE * fastest]
        return next((index for index in preferred if index in close), int(found.left[0]))

    def _now(self) -> float:
        return self.clock() * 1e-9

    def _has_time(self, expected: Mapping[int, float], end: float) -> bool:
        """Whether the first plan and another one can be called before the end: each once untimed, and once timed."""
        others = [time for index, time in expected.items() if index and index not in self.failed]
        calls = 2 * (expected.get(0, 0.0) + min(others, default=0.0))
        return self._now() + calls <= end

    def _expected(self, rows: int) -> dict[int, float]:
        """Plan -> the seconds of a call that are expected at a batch size: the prediction, times the error of that at the nearest measured
        size. Without predictions, nothing is expected."""
        if self.predicted is None:
            return {}
        found = {}
        for index, measured in self.seconds.items():
            found[index] = self.predicted(index, rows)
            near = min(measured, key=lambda size: abs(math.log(size / rows)), default=None)
            if near is not None and (there := self.predicted(index, near)) > 0:
                found[index] *= measured[near] / there
        return found

    def _leaves(self, rows: int) -> list[Any]:
        if rows == self._example_rows:
            return list(self._program.example)
        return reshuffle(self._program, rows, torch.Generator().manual_seed(rows))


def _once(call: Callable[[], Any], clock: Callable[[], int], seconds: float = 0.0) -> float:
    """The least seconds of a few warm calls; of one call that takes so long that a cold one takes hardly longer.

    Args:
        call: The call.
        clock: Returns the time in nanoseconds.
        seconds: Time for more calls than a few.
    """
    start = clock()
    call()
    times: list[float] = []
    if (first := (clock() - start) / 1e9) >= _BETWEEN_SECONDS:
        return first
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
