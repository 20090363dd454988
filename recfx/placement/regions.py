"""The regions of a choice of backends, and the cost of the choice with every region's call and every copy counted once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import fx

from recfx.cost.estimate import Estimate
from recfx.ir.region import grouped
from recfx.placement.costs import NOTHING, TORCH, CostTable


@dataclasses.dataclass(frozen=True)
class CostedRegion:
    """A region of a plan.

    Attributes:
        backend: Its backend.
        nodes: Its operators.
        units: The indices of its units. A unit whose operators are in two regions counts for the first.
        work: The time of its units.
        call: The time of its call and of the hand-offs of its inputs and of the program's outputs.
    """

    backend: str
    nodes: tuple[fx.Node, ...]
    units: tuple[int, ...]
    work: Estimate
    call: Estimate

    @property
    def cost(self) -> Estimate:
        """The time of the region in one call of the program."""
        return self.work + self.call


def costed_regions(table: CostTable, labels: Sequence[int]) -> list[CostedRegion]:
    """The convex regions of a choice of backends, with their costs.

    Operators of one backend that do not form a convex region become several regions. A tensor that several operators of a region read
    is handed over once.

    Args:
        table: The costs.
        labels: The backend of each unit, as its index.
    """
    graph = table.graph
    assignment = {node: table.backend(labels[unit]) for node, unit in graph.unit_of.items()}
    groups = [(name or TORCH, members) for name, members in grouped(graph.program, assignment)]
    region_of = {node: at for at, (_, members) in enumerate(groups) for node in members}
    names = [name for name, _ in groups]
    index = {name: at for at, name in enumerate(graph.backends)}
    returned = {node for node in _returned(graph.program.graph) if node in region_of}
    counted = set[int]()
    found = []
    for at, (name, members) in enumerate(groups):
        units = [u for u in dict.fromkeys(graph.unit_of[n] for n in members if n in graph.unit_of) if u not in counted]
        counted.update(units)
        work = sum((table.own[unit][index[name]] for unit in units), NOTHING) if name in index else NOTHING
        call = table.launches[index[name]] if name in index and units else NOTHING
        for source in dict.fromkeys(s for n in members for s in n.all_input_nodes if s.op != "get_attr"):
            origin = region_of.get(source)
            if origin != at:
                sender = TORCH if origin is None else names[origin]
                call += _handed(table, sender, name, source)
        for node in members:
            if node in returned:
                call += _handed(table, name, TORCH, node)
        found.append(CostedRegion(name, tuple(members), tuple(units), work, call))
    return found


def _handed(table: CostTable, sender: str, receiver: str, node: fx.Node) -> Estimate:
    nbytes = table.nbytes(node)
    return table.handoff(sender, receiver, nbytes) if sender != receiver and nbytes else NOTHING


def _returned(graph: fx.Graph) -> list[fx.Node]:
    returned: list[fx.Node] = next(iter(reversed(graph.nodes))).all_input_nodes
    return returned


def total(regions: Sequence[CostedRegion]) -> Estimate:
    """The time of all regions."""
    return sum((region.cost for region in regions), NOTHING)


def assignment_of(table: CostTable, labels: Sequence[int]) -> Mapping[str, str]:
    """Name of each operator -> its backend."""
    return {node.name: table.backend(labels[unit]) for node, unit in table.graph.unit_of.items()}
