"""Improves a plan by exchanging the backend of one region at a time, or tries all choices of a small graph. Regions are formed of whole
units here, which is fast."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence

from recfx.placement.costs import TORCH, CostTable

#: The most exchanges that are tried for one plan, and the number that divided by the units gives fewer for large programs.
_MOST_MOVES, _MOVES = 200, 6_000

#: A region: its backend, its units, and the seconds of its units and of its call with hand-offs.
_Region = tuple[int, list[int], float, float]


class Moves:
    """The expected seconds of plans of one cost table.

    Args:
        table: The costs.
    """

    def __init__(self, table: CostTable) -> None:
        graph = table.graph
        self.table = table
        self.own = [[estimate.seconds for estimate in row] for row in table.own]
        self.calls = [launch.seconds for launch in table.launches]
        self.torch = graph.backends.index(TORCH)
        self.readers: list[set[int]] = [set() for _ in graph.units]
        #: For each unit, the tensors that it reads: a key, the unit that makes it (-1 for an input of the program), and its bytes.
        self.reads: list[list[tuple[int, int, int]]] = []
        keys: dict[object, int] = {}
        for index, unit in enumerate(graph.units):
            sources = dict.fromkeys(s for node in unit.nodes for s in node.all_input_nodes if s.op != "get_attr")
            found = []
            for source in sources:
                origin = graph.unit_of.get(source, -1)
                if origin != index and (nbytes := table.nbytes(source)):
                    found.append((keys.setdefault(source, len(keys)), origin, nbytes))
                    if origin >= 0:
                        self.readers[origin].add(index)
            self.reads.append(found)
        returned = set(next(iter(reversed(graph.program.graph.nodes))).all_input_nodes)
        self.returned = [[table.nbytes(node) for node in unit.nodes if node in returned] for unit in graph.units]
        self.waits = [len({origin for _, origin, _ in found if origin >= 0}) for found in self.reads]

    def regions(self, labels: Sequence[int]) -> list[_Region] | None:
        """The regions of a choice of backends; None if the units depend on each other in a circle."""
        members = self._groups(labels)
        if members is None:
            return None
        region_of = {unit: at for at, units in enumerate(members) for unit in units}
        found = []
        for at, units in enumerate(members):
            label = labels[units[0]]
            work = sum(self.own[unit][label] for unit in units)
            call = self.calls[label]
            read = {
                key: (self.torch if origin < 0 else labels[origin], nbytes)
                for unit in units
                for key, origin, nbytes in self.reads[unit]
                if origin < 0 or region_of[origin] != at
            }
            call += sum(self._handed(sender, label, nbytes) for sender, nbytes in read.values())
            call += sum(self._handed(label, self.torch, nbytes) for unit in units for nbytes in self.returned[unit])
            found.append((label, units, work, call))
        return found

    def _handed(self, sender: int, receiver: int, nbytes: int) -> float:
        if sender == receiver or not nbytes:
            return 0.0
        return self.table.handoff(self.table.backend(sender), self.table.backend(receiver), nbytes).seconds

    def _groups(self, labels: Sequence[int]) -> list[list[int]] | None:
        """The units of each region: each region takes all units of one backend whose operands are ready."""
        waits = [*self.waits]
        ready: list[list[int]] = [[] for _ in self.calls]
        for unit, waiting in enumerate(waits):
            if not waiting:
                heapq.heappush(ready[labels[unit]], unit)
        found = []
        taken = 0
        while taken < len(waits):
            heads = [held[0] for held in ready if held]
            if not heads:
                return None
            held, units = ready[labels[min(heads)]], []
            while held:
                unit = heapq.heappop(held)
                units.append(unit)
                for reader in self.readers[unit]:
                    waits[reader] -= 1
                    if not waits[reader]:
                        heapq.heappush(ready[labels[reader]], reader)
            taken += len(units)
            found.append(units)
        return found

    def cheapest(self, most: int) -> tuple[int, ...] | None:
        """The cheapest of all choices; None if there are more than `most`, or if none is possible."""
        runs = [[label for label, seconds in enumerate(row) if seconds < float("inf")] for row in self.own]
        if math.prod(map(len, runs)) > most:
            return None
        costs = ((self.regions(labels), labels) for labels in itertools.product(*runs))
        best = min(((_seconds(regions), labels) for regions, labels in costs if regions is not None), default=None)
        return None if best is None else best[1]

    def improved(self, labels: Sequence[int]) -> tuple[int, ...]:
        """A choice that no exchange of the backend of one region makes cheaper, or the best after many exchanges.

        Args:
            labels: The choice to begin with.
        """
        best = tuple(labels)
        regions = self.regions(best)
        moves = min(_MOST_MOVES, max(1, _MOVES // max(1, len(self.own))))
        tried = {best}
        while regions is not None and moves > 0:
            cost = _seconds(regions)
            better = None
            for candidate in self._exchanges(best, regions):
                if moves <= 0:
                    break
                if candidate not in tried:
                    tried.add(candidate)
                    moves -= 1
                    found = self.regions(candidate)
                    if found is not None and _seconds(found) < cost:
                        better = candidate, found
                        break
            if better is None:
                break
            best, regions = better
        return best

    def _exchanges(self, labels: Sequence[int], regions: Sequence[_Region]) -> Iterator[tuple[int, ...]]:
        """Choices that differ in the backend of one region. Regions with the least work come first: they rarely save their call."""
        for label, units, _, _ in sorted(regions, key=lambda region: region[2] - region[3]):
            inside = set(units)
            for other in range(len(self.calls)):
                if other != label and all(self.own[unit][other] < float("inf") for unit in units):
                    yield tuple(other if unit in inside else old for unit, old in enumerate(labels))


def _seconds(regions: Sequence[_Region]) -> float:
    return sum(work + call for _, _, work, call in regions)
