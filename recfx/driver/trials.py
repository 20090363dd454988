"""`Trials`: lowers the plans that compete, times them, and compares the outputs of the chosen ones with those of the program."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from recfx.cost.estimate import Estimate
from recfx.driver.lowering import Lowering
from recfx.driver.plan_entries import Entry
from recfx.driver.plan_times import Choice, Contest, region_seconds, rows_of
from recfx.driver.plans import TRUSTED
from recfx.errors import VerificationError
from recfx.ir.numeric import Run
from recfx.placement.costs import Costs, CostTable
from recfx.placement.regions import assignment_of
from recfx.placement.search import predicted_best

#: Seconds for measuring the other plans again after a chosen one turned out to be wrong.
_AGAIN = 2.0
#: The inputs on which a plan is compared with the program before it is timed.
_FEW_RUNS = 2
#: Plans of more regions are not measured region by region for the model of costs.
_MOST_RECORDED = 16


class Trials:
    """The plans of one competition.

    Args:
        lowering: Lowers the plans.
        table: The units and their costs at one batch size.
        entries: The plans. The first one is lowered and compared with the program already.
        measures: Whether plans are timed; otherwise the predicted times decide.
    """

    def __init__(self, lowering: Lowering, table: CostTable, entries: Sequence[Entry], *, measures: bool) -> None:
        self.lowering, self.table, self.entries, self.measures = lowering, table, entries, measures
        self.program = lowering.program

    def lower(self, wanted: Sequence[Entry], deadline: float) -> list[str]:
        """Lowers plans until the time is up; returns the notices about backends that were dropped from them.

        Args:
            wanted: The plans.
            deadline: In seconds of the clock.
        """
        notices = []
        few = _few(self.lowering.runs)
        for entry in wanted:
            if time.perf_counter() > deadline:
                entry.note = "not lowered: the time for placement was up"
                continue
            placed, said = self.lowering.place(assignment_of(self.table, entry.candidate.labels), runs=few)
            dropped = _dropped(said)
            notices += dropped
            entry.note = "; ".join(dropped)
            entry.placed = placed if not TRUSTED.issuperset(placed.backends) or not dropped else None
        return notices

    def choose(self, sizes: Sequence[int], deadline: float) -> tuple[Choice, list[str]]:
        """Which plan runs at which batch size, and notices about plans that are wrong.

        A comparison of outputs on all inputs may take longer than the calls that are timed, so only the chosen plans are compared. Where
        one of them is wrong, the others compete again.

        Args:
            sizes: The batch sizes.
            deadline: The end of the measurement, in seconds of the clock.
        """
        notices: list[str] = []
        checked = {0}
        while True:
            choice = self._fastest(sizes, deadline)
            unchecked = set(choice.uses) - checked
            for index in sorted(unchecked):
                notices += self._check(self.entries[index])
            if all(self.entries[index].placed is not None for index in unchecked):
                return choice, notices
            checked |= unchecked
            deadline = max(deadline, time.perf_counter() + _AGAIN)

    def record(self, costs: Costs, deadline: float) -> None:
        """Gives the model of costs the measured times of the regions of the lowered plans, each region once."""
        rows, threads = rows_of(self.program, self.program.example), torch.get_num_threads()
        recorded: set[int] = set()
        for entry in self.entries:
            placed = entry.placed
            if placed is None or entry.note or len(placed.regions) > _MOST_RECORDED:
                continue
            needed = 3 * entry.candidate.predicted[rows].seconds
            if recorded.issuperset(map(id, placed.regions)) or time.perf_counter() + needed > deadline:
                continue
            try:
                found = region_seconds(placed, self.program.example)
            except Exception as error:  # noqa: BLE001 - a backend may raise anything at a call; the next plan runs then
                entry.note = f"failed at a call: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                continue
            for region, lowered, seconds in zip(placed.split.regions, placed.regions, found, strict=True):
                if id(lowered) not in recorded:
                    recorded.add(id(lowered))
                    measured = Estimate(seconds, 0.9 * seconds, 1.1 * seconds)
                    costs.record(lowered.backend, region, rows, threads, measured)

    def _check(self, entry: Entry) -> list[str]:
        """Compares a chosen plan with the program on all inputs; drops a wrong one, and returns what is to be said about it."""
        assert entry.placed is not None
        try:
            return list(self.lowering.check(entry.placed))
        except VerificationError:
            labels = entry.candidate.labels
            _, said = self.lowering.place(assignment_of(self.table, labels))  # finds the regions at fault
        dropped = _dropped(said)
        entry.placed, entry.note = None, "; ".join(dropped)
        return dropped

    def _fastest(self, sizes: Sequence[int], deadline: float) -> Choice:
        """The fastest of the lowered plans at each batch size."""
        lowered = [(at, entry, entry.placed) for at, entry in enumerate(self.entries) if entry.placed is not None]
        known = [entry.candidate for _, entry, _ in lowered]

        def near(rows: int) -> int:
            return rows if rows in known[0].predicted else min(sizes, key=lambda size: abs(math.log(size / rows)))

        contest = Contest(
            [placed for _, _, placed in lowered],
            deadline if self.measures else -math.inf,
            lambda rows: known.index(predicted_best(known, near(rows))),
            predicted=lambda index, rows: known[index].predicted[near(rows)].seconds,
        )
        choice = contest.choose(sizes)
        for index, problem in contest.failed.items():
            lowered[index][1].note = f"failed at a call: {problem}"
        places = [at for at, _, _ in lowered]
        seconds = {places[index]: times for index, times in choice.seconds.items()}
        return Choice(choice.bounds, tuple(places[use] for use in choice.uses), seconds)


def _dropped(notices: Sequence[str]) -> list[str]:
    """The notices about backends that were left out."""
    return [notice for notice in notices if "left out" in notice]


def _few(runs: Sequence[Run]) -> list[Run]:
    """The runs on the smallest inputs."""
    plain = [run for run in runs if not run.special]
    return sorted(plain, key=lambda run: sum(leaf.numel() for leaf in run.leaves if isinstance(leaf, torch.Tensor)))[
        :_FEW_RUNS
    ]
