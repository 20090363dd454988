"""How far the plans that placement chooses are from the fastest ones: a sample of plans, lowered and timed beside the chosen plan."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

import recfx
from benchmarks.case import Case
from benchmarks.markdown import markdown
from benchmarks.memory import memory
from recfx.cost.timing import compare
from recfx.driver.cost_model import cost_model, known_rivals
from recfx.driver.lowering import Lowering
from recfx.driver.parts import Parts
from recfx.driver.placed import Placed
from recfx.driver.plans import TRUSTED, described
from recfx.errors import RecfxError
from recfx.ir.numeric import Exactness
from recfx.ir.probes import reshuffle
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.placement.costs import CostTable, cost_table
from recfx.placement.plans import Plan, best_plans, plan_of, single_plans
from recfx.placement.regions import assignment_of, costed_regions
from recfx.placement.units import unit_graph
from recfx.targets import Backend, resolve

#: Programs with at most this many plans are measured on all of them.
ALL_PLANS = 700
#: The rows of the example with which the models are optimized.
_EXAMPLE_ROWS = 16
#: Plans that are compared in turns, after each plan was timed by a few calls of its own.
_FINALISTS = 5
#: The calls of a plan in the first round, and the multiple of the fastest time after which it gets no further call.
_CALLS, _MUCH_SLOWER = 5, 2.0
#: Lowered plans are dropped when the process holds more: each region of a backend may have a copy of its weights.
_HELD_BYTES = 6 << 30

Labels = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Regret:
    """The chosen plan of a program beside the fastest plans that were found.

    Attributes:
        case: The benchmark case.
        rows: The batch size.
        units: The units of the program.
        plans: The plans that were timed, without the chosen one.
        every: Whether these are all plans of the program.
        chosen: The backends of the chosen plan.
        best: The backends of the fastest plan.
        regret: The time of the chosen plan over that of the fastest one, minus 1.
        single: The fastest plan in which one backend runs all that it supports, and torch the rest.
        over_single: The time of the chosen plan over that of `single`.
    """

    case: str
    rows: int
    units: int
    plans: int
    every: bool
    chosen: str
    best: str
    regret: float
    single: str
    over_single: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """How many plans are tried where there are too many for all.

    Attributes:
        predicted: Plans with the lowest predicted times.
        drawn: Plans drawn at random.
        seconds: Time for the comparison in turns at each batch size.
        seed: The seed of the drawn plans.
    """

    predicted: int = 50
    drawn: int = 50
    seconds: float = 3.0
    seed: int = 0


def measure(
    cases: Sequence[Case],
    batches: Sequence[int],
    sample: Sample,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Regret]:
    """Optimizes models, and times the chosen plans beside others.

    Args:
        cases: The models.
        batches: Batch sizes.
        sample: The plans that are tried.
        tell: Receives a line for each case and batch size.
    """
    found: list[Regret] = []
    for case in cases:
        model = case.model()
        example = case.inputs(model, _EXAMPLE_ROWS, None, 0)
        parts = recfx.optimize(model, example_inputs=example).parts
        fields = {id(p): _Field(case.name, p, sample) for p in (parts, parts.one_row) if p is not None}
        for rows in batches:
            held = parts.one_row if rows == 1 and parts.one_row is not None else parts
            found.append(fields[id(held)].regret(rows))
            tell(_line(found[-1]))
    return found


class _Field:
    """The plans of one compiled program.

    Args:
        case: The name of its case.
        parts: The compiled program.
        sample: See `measure`.
    """

    def __init__(self, case: str, parts: Parts, sample: Sample) -> None:
        self.case, self.parts, self.sample = case, parts, sample
        self.program: Program = parts.program
        self.lowering = Lowering(self.program, _backends(self.program), (), Exactness.REASSOC)
        self.graph = unit_graph(self.program, self.lowering.verdicts)
        self.lowered: dict[Labels, Placed | None] = {}

    def regret(self, rows: int) -> Regret:
        """The chosen plan at a batch size, beside the fastest of the others."""
        plans = self.parts.plans
        chosen = plans.placed[plans.uses[bisect.bisect_right(plans.bounds, rows)]]
        table = cost_table(self.graph, self.lowering.backends, cost_model(), rows, torch.get_num_threads())
        every = math.prod(len(unit.backends) for unit in self.graph.units) <= ALL_PLANS
        tried = self._all(table) if every else self._sampled(table)
        singles = {plan.labels for plan in single_plans(table)}
        leaves = reshuffle(self.program, rows, torch.Generator().manual_seed(rows))
        with torch.inference_mode():
            once = self._screened(table, tried, leaves)
            fastest = sorted(once, key=once.__getitem__)
            single = next(labels for labels in fastest if labels in singles)
            finalists = {labels: self._placed(table, labels) for labels in {*fastest[:_FINALISTS], single}}
            held = {"chosen": chosen} | {str(k): placed for k, placed in finalists.items() if placed is not None}
            # Two measurements of one plan would differ by noise alone.
            same = {name for name, placed in held.items() if placed.assignment() == chosen.assignment()}
            calls = {name: partial(p.run, *leaves) for name, p in held.items() if name == "chosen" or name not in same}
            timings = compare(calls, seconds=self.sample.seconds).timings
        times = {name: timings["chosen" if name in same else name].median for name in held}
        best = min(times, key=times.__getitem__)
        names = {name: described(placed) for name, placed in held.items()}
        return Regret(
            *(self.case, rows, len(self.graph.units), len(once), every, names["chosen"], names[best]),
            *(times["chosen"] / times[best] - 1, names[str(single)], times["chosen"] / times[str(single)]),
        )

    def _all(self, table: CostTable) -> list[Labels]:
        index = {name: at for at, name in enumerate(self.graph.backends)}
        choices = [[index[name] for name in unit.backends] for unit in self.graph.units]
        return list(itertools.product(*choices))

    def _sampled(self, table: CostTable) -> list[Labels]:
        """Plans of one backend, plans with low predicted times, and drawn plans."""
        best = best_plans(table)
        near = {plan.labels: plan for plan in best} | {p.labels: p for b in best[:5] for p in _neighbours(table, b)}
        ranked = sorted(near.values(), key=lambda plan: plan.cost.seconds)[: self.sample.predicted]
        drawing = random.Random(self.sample.seed)
        index = {name: at for at, name in enumerate(self.graph.backends)}
        drawn = [
            tuple(index[drawing.choice(unit.backends)] for unit in self.graph.units) for _ in range(self.sample.drawn)
        ]
        singles = [plan.labels for plan in single_plans(table)]
        return list(dict.fromkeys([*singles, *(plan.labels for plan in ranked), *drawn]))

    def _screened(self, table: CostTable, tried: Sequence[Labels], leaves: Sequence[Any]) -> dict[Labels, float]:
        """Plan -> the least seconds of a few calls. Plans that a backend refuses are left out."""
        found: dict[Labels, float] = {}
        for labels in tried:
            placed = self._placed(table, labels)
            if placed is not None:
                call = partial(placed.run, *leaves)
                found[labels] = _least(call, _MUCH_SLOWER * min(found.values(), default=math.inf))
        return found

    def _placed(self, table: CostTable, labels: Labels) -> Placed | None:
        """The program lowered with a plan; None if a backend refuses it."""
        if labels not in self.lowered:
            if memory("VmRSS") > _HELD_BYTES:
                self.lowered.clear()
            self.lowered[labels] = None
            with contextlib.suppress(RecfxError):
                self.lowered[labels] = self.lowering.place(assignment_of(table, labels))[0]
        return self.lowered[labels]


def _backends(program: Program) -> list[Backend]:
    """The backends of the target "cpu" that compete without being named."""
    whole = Region.whole(program)
    found = [backend for backend in resolve("cpu") if not backend.slow_to_lower(whole)]
    rivals = known_rivals([backend for backend in found if backend.name not in TRUSTED], calibrate=True)
    return [backend for backend in found if backend.name in TRUSTED or backend in rivals]


def _neighbours(table: CostTable, plan: Plan) -> Iterator[Plan]:
    """Plans that differ in the backend of one region."""
    index = {name: at for at, name in enumerate(table.graph.backends)}
    for region in costed_regions(table, plan.labels):
        units = [table.graph.units[unit] for unit in region.units]
        for name in table.graph.backends:
            if name != region.backend and units and all(name in unit.backends for unit in units):
                labels = list(plan.labels)
                for unit in region.units:
                    labels[unit] = index[name]
                yield plan_of(table, labels)


def _least(call: Callable[[], Any], limit: float) -> float:
    """The least seconds of a few calls; one call only if it takes longer than a limit."""
    call()
    times: list[float] = []
    while len(times) < _CALLS and (not times or times[0] <= limit):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _line(found: Regret) -> str:
    return (
        f"{found.case} at {found.rows}: {found.chosen}, regret {found.regret:.1%} of {found.plans} plans; "
        f"{found.over_single:.3f} x {found.single}"
    )


def report(found: Sequence[Regret]) -> str:
    """A line for each case and batch size, and the median and the largest regret."""
    head = (
        *("case", "batch", "units", "plans", "chosen", "fastest", "regret", "best single backend", "chosen / single"),
    )
    cells = [
        (
            *(each.case, str(each.rows), str(each.units), f"{each.plans}{' (all)' if each.every else ''}"),
            *(each.chosen, each.best, f"{each.regret:.1%}", each.single, f"{each.over_single:.3f}"),
        )
        for each in found
    ]
    regrets = [each.regret for each in found]
    return (
        markdown(head, cells, {1, 2, 3, 6, 8})
        + f"\n\nRegret: median {statistics.median(regrets):.1%}, largest {max(regrets):.1%}."
    )
