"""Chooses the plans of a program: the backends of the target compete by predicted and by measured time.

The first plan, native kernels with torch in between, is lowered in any case. Other plans are lowered only if the model of costs says that
they may be faster at some batch size. With `placement="measure"` they are timed in turns at several batch sizes; with "model" the predicted
times decide. A plan of other backends always has the first plan as its fallback.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import torch

from recfx.driver.cost_model import calibrates, cost_model, known_rivals
from recfx.driver.lowering import Lowering
from recfx.driver.options import Options
from recfx.driver.pins import pinned, pinned_backends, refused_pins
from recfx.driver.placed import Placed
from recfx.driver.placement_cache import PlacementCache
from recfx.driver.placement_report import PlanTimes, RegionReport, region_reports
from recfx.driver.plan_entries import Entry, kept, times_of
from recfx.driver.plan_times import compared_sizes, rows_of
from recfx.driver.plans import TRUSTED, Layout, Plans
from recfx.driver.trials import Trials
from recfx.ir.numeric import Exactness, Run
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.placement.costs import TORCH, Costs, CostTable, cost_table
from recfx.placement.plans import in_order
from recfx.placement.regions import costed_regions
from recfx.placement.search import candidates, may_gain, predicted_best
from recfx.placement.units import unit_graph
from recfx.targets import BACKENDS, Backend, EagerBackend, Verdict, missing

#: Seconds for lowering and measuring plans beside the first one: the most; what is left of the seconds up to the end of the competition, if
#: the stages before took long; the least. Half of them are for lowering.
_MOST, _UP_TO, _LEAST = 6.0, 7.0, 1.0
#: Seconds for the times of single regions, which later predictions use.
_RECORDING = 0.7
#: A backend that takes long to lower competes only if the target names it, and torch takes this share of the first plan's predicted time.
_LARGE_TORCH_SHARE = 0.3
#: Backends are calibrated by themselves for programs whose first plan is predicted to take this many seconds at the largest batch.
_WORTH_CALIBRATION = 2e-3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The plans of a program.

    Attributes:
        plans: The plans.
        notices: Notices for the user.
        times: The plans that competed, with their times; empty if there was one plan only.
        regions: The regions of the plan that the report describes.
    """

    plans: Plans
    notices: tuple[str, ...]
    times: tuple[PlanTimes, ...] = ()
    regions: tuple[RegionReport, ...] = ()


def place(
    program: Program,
    options: Options,
    runs: Sequence[Run],
    applied: Exactness,
    layout: Layout | None = None,
    *,
    spent: float = 0.0,
) -> Outcome:
    """Lowers a program to the plans that run it.

    Args:
        program: The program after all passes.
        options: The user's options.
        runs: Inputs with the program's outputs for them, with which the outputs of every plan are compared.
        applied: The weakest exactness class of the passes that fired.
        layout: The plans of an earlier build of the same program, which are made again.
        spent: Seconds that the stages before took.
    """
    found = _Competition(program, options, runs, applied, spent)
    if layout is not None:
        return found.again(layout)
    if isinstance(options.placement, Mapping):
        return found.pinned(options.placement)
    return found.run()


class _Competition:
    """The competition for one program. See `place` for the arguments."""

    def __init__(
        self, program: Program, options: Options, runs: Sequence[Run], applied: Exactness, spent: float = 0.0
    ) -> None:
        self.began = time.perf_counter() - spent
        self.program, self.options, self.runs, self.applied = program, options, runs, applied
        backends = options.backends
        trusted = [backend for backend in backends if backend.name in TRUSTED] or [EagerBackend()]
        self.first = trusted if options.competes else backends
        rivals = [backend for backend in backends if backend not in self.first]
        whole = Region.whole(program)
        self.slow = [backend for backend in rivals if backend.slow_to_lower(whole)]
        self.rivals = [b for b in rivals if b not in self.slow or b.name in options.names]
        self.trusted = trusted

    def again(self, layout: Layout) -> Outcome:
        """The plans of an earlier build."""
        named = dict.fromkeys(name for assignment in layout.assignments for name in assignment.values())
        more = [BACKENDS[name] for name in named if name in BACKENDS and missing(name) is None]
        backends = list({backend.name: backend for backend in (*self.options.backends, *more)}.values())
        lowering = Lowering(self.program, backends, self.runs, self.applied)
        notices: list[str] = []
        placed = []
        for assignment in layout.assignments:
            plan, said = lowering.place(assignment)
            placed.append(plan)
            notices += said
        plans = Plans(tuple(placed), layout.bounds, layout.uses, layout.shown)
        return self._outcome(self._with_fallback(plans, lowering), notices, lowering)

    def pinned(self, pins: Mapping[str, str]) -> Outcome:
        """The plan in which the user's pins hold, and the first plan runs everything else."""
        first = Lowering(self.program, self.first, self.runs, self.applied)
        base, notices = first.place({})
        wanted = pinned(pins, base)
        more = [backend for backend in pinned_backends(pins) if backend not in self.first]
        lowering = self._wider(first, [*self.first, *more])
        notices += tuple(refused_pins(wanted, self.program, lowering.verdicts))
        placed, said = lowering.place({**base.assignment(), **wanted})
        plans = self._with_fallback(Plans((placed,)), lowering)
        return self._outcome(plans, [*notices, *said], lowering)

    def run(self) -> Outcome:
        """The plans that the competition finds."""
        first = Lowering(self.program, self.first, self.runs, self.applied)
        base, notices = first.place({})
        if not self.rivals:
            return self._outcome(self._with_fallback(Plans((base,)), first), notices, first)
        costs, sizes = cost_model(), compared_sizes(self.program)
        known = self._known(first, costs, sizes[-1])
        rivals = self._hopeful(first, costs, sizes, known) if known else []
        if not rivals:
            tables = self._tables(first, costs, [self._example_rows()]) if known else [None]
            return self._outcome(Plans((base,)), notices, first, tables[0])
        lowering = self._wider(first, [*self.first, *rivals])
        notices += lowering.take_notices()
        cache = PlacementCache(self.program, [*self.first, *rivals], sizes) if self.options.measures else None
        if cache is not None and (earlier := self._kept(cache, lowering, base)) is not None:
            plans, times = earlier
            return self._outcome(
                plans, notices, lowering, self._tables(lowering, costs, [self._example_rows()])[0], times
            )
        tables = self._tables(lowering, costs, sizes)
        found = candidates(tables, [backend.name for backend in self.first])
        table = min(tables, key=lambda t: abs(math.log(t.rows / max(self._example_rows(), 1))))
        if len(found) == 1:
            return self._outcome(Plans((base,)), notices, lowering, table)
        entries = [Entry(candidate) for candidate in found]
        entries[0].placed = base
        wanted = found if self.options.measures else [predicted_best(found, rows) for rows in sizes]
        start = time.perf_counter()
        budget = max(_LEAST, min(_MOST, self.began + _UP_TO - start)) if self.options.measures else math.inf
        ends = (start + budget / 2, start + budget)
        trials = Trials(lowering, table, entries, measures=self.options.measures)
        said = trials.lower([entry for entry in entries[1:] if entry.candidate in wanted], ends[0])
        choice, more = trials.choose(sizes, ends[1])
        compared = sum(bool(found) for found in choice.seconds.values()) > 1
        if cache is not None and compared:
            trials.record(costs, min(ends[1], time.perf_counter() + _RECORDING))
        plans, times = kept(entries, choice, self._example_rows()), times_of(entries, choice, sizes)
        if cache is not None and compared:
            cache.write(plans.layout(), times)
        return self._outcome(plans, [*notices, *said, *more], lowering, table, times)

    def _known(self, first: Lowering, costs: Costs, rows: int) -> list[Backend]:
        """The rivals whose times can be predicted. Others are calibrated first if the program is large enough to be worth it.

        A backend that takes long to lower is not calibrated, because that would take many minutes.
        """
        named = [backend for backend in self.rivals if backend in self.slow]
        quick = [backend for backend in self.rivals if backend not in self.slow]
        known = known_rivals(quick, calibrate=False)
        if len(known) == len(quick) or not self.options.measures or not calibrates():
            return [*known, *named]
        (table,) = self._tables(first, costs, [rows])
        large = in_order(table, [backend.name for backend in self.first]).cost.seconds >= _WORTH_CALIBRATION
        return [*(known_rivals(quick, calibrate=True) if large else known), *named]

    def _kept(
        self, cache: PlacementCache, lowering: Lowering, base: Placed
    ) -> tuple[Plans, tuple[PlanTimes, ...]] | None:
        """The plans that an earlier competition of this program chose; None without one, and if a backend is dropped now."""
        earlier = cache.read()
        if earlier is None:
            return None
        placed = []
        for assignment in earlier.assignments[:-1]:
            plan, said = lowering.place(assignment)
            if any("left out" in notice for notice in said):
                return None
            placed.append(plan)
        return Plans((*placed, base), earlier.bounds, earlier.uses, earlier.shown), earlier.times

    def _hopeful(self, first: Lowering, costs: Costs, sizes: Sequence[int], rivals: Sequence[Backend]) -> list[Backend]:
        """The rivals, if some choice of backends may be faster than the first plan, before any of them has looked at the program."""
        every = {node: Verdict(True) for node in next(iter(first.verdicts.values()))}
        verdicts = {**first.verdicts, **{backend.name: every for backend in rivals}}
        graph = unit_graph(self.program, verdicts)
        backends = {**first.backends, **{backend.name: backend for backend in rivals}}
        threads = torch.get_num_threads()
        names = [backend.name for backend in self.first]
        tables = [cost_table(graph, backends, costs, rows, threads) for rows in dict.fromkeys((sizes[0], sizes[-1]))]
        bases = [in_order(table, names) for table in tables]
        if not any(may_gain(table, base) for table, base in zip(tables, bases, strict=True)):
            return []
        share = max(_torch_share(table, base.labels) for table, base in zip(tables, bases, strict=True))
        return [backend for backend in rivals if backend not in self.slow or share >= _LARGE_TORCH_SHARE]

    def _wider(self, first: Lowering, backends: Sequence[Backend]) -> Lowering:
        """A lowering on more backends. A region whose backend fails goes to those of the first plan."""
        names = [backend.name for backend in self.trusted]
        instead = list(dict.fromkeys([*names, TORCH]))
        return Lowering(self.program, backends, self.runs, self.applied, earlier=first, instead=instead)

    def _tables(self, lowering: Lowering, costs: Costs, sizes: Sequence[int]) -> list[CostTable]:
        graph = unit_graph(self.program, lowering.verdicts)
        threads = torch.get_num_threads()
        return [cost_table(graph, lowering.backends, costs, rows, threads) for rows in sizes]

    def _example_rows(self) -> int:
        return rows_of(self.program, self.program.example)

    def _with_fallback(self, plans: Plans, lowering: Lowering) -> Plans:
        """The plans, with one on native kernels and torch after them if the last one has other backends."""
        if TRUSTED.issuperset(plans.placed[-1].backends):
            return plans
        fallback = Lowering(self.program, self.trusted, self.runs, self.applied, earlier=lowering).place({})[0]
        return dataclasses.replace(plans, placed=(*plans.placed, fallback))

    def _outcome(
        self,
        plans: Plans,
        notices: Sequence[str],
        lowering: Lowering,
        table: CostTable | None = None,
        times: tuple[PlanTimes, ...] = (),
    ) -> Outcome:
        return Outcome(plans, tuple(notices), times, region_reports(plans.main, table, lowering.verdicts))


def _torch_share(table: CostTable, labels: Sequence[int]) -> float:
    """The share of torch in the predicted time of a plan."""
    regions = costed_regions(table, labels)
    total = sum(region.cost.seconds for region in regions)
    return sum(region.cost.seconds for region in regions if region.backend == TORCH) / total if total else 0.0
