"""The costs of a program's units on each backend at one batch size."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import fx

from recfx.cost.estimate import Estimate
from recfx.ir.region import Region
from recfx.placement.sizes import Bytes
from recfx.placement.units import UnitGraph
from recfx.targets import Backend

#: The backend that runs what no other backend takes. Inputs and outputs of a program are its tensors.
TORCH = "eager"
NOTHING = Estimate(0.0, 0.0, 0.0)
IMPOSSIBLE = Estimate(math.inf, math.inf, math.inf)


class Costs(Protocol):
    """A model of costs. All times are in seconds; `threads` is the number of torch's threads."""

    def unit(self, backend: str, region: Region, rows: int, threads: int) -> Estimate:
        """The time of the operators of a region in one call, without the cost of the call itself."""
        ...

    def launch(self, backend: str, threads: int) -> Estimate:
        """The time of the call of a region without work."""
        ...

    def handoff(self, source: str, destination: str, nbytes: int, threads: int) -> Estimate:
        """The time to give a tensor of one backend to another one."""
        ...

    def record(self, backend: str, region: Region, rows: int, threads: int, measured: Estimate) -> None:
        """Keeps the measured time of one call of a region, for later predictions."""
        ...


@dataclasses.dataclass(frozen=True)
class CostTable:
    """The costs of a program at one batch size.

    Attributes:
        graph: The units.
        rows: The batch size.
        own: The time of each unit on each backend [units][backends]; infinity where the backend cannot run it.
        launches: The time of the call of a region, by backend.
        nbytes: Node -> the bytes of its value.
        handoff: (source, destination, bytes) -> the time of a hand-off.
    """

    graph: UnitGraph
    rows: int
    own: tuple[tuple[Estimate, ...], ...]
    launches: tuple[Estimate, ...]
    nbytes: Callable[[fx.Node], int]
    handoff: Callable[[str, str, int], Estimate]

    def backend(self, label: int) -> str:
        """The name of a backend."""
        return self.graph.backends[label]


def cost_table(graph: UnitGraph, backends: Mapping[str, Backend], costs: Costs, rows: int, threads: int) -> CostTable:
    """The costs of a program at one batch size.

    Args:
        graph: The units.
        backends: Name -> backend.
        costs: The model of costs of backends without estimates of their own.
        rows: The batch size.
        threads: The number of torch's threads.
    """

    def own(backends_of: Sequence[str], region: Region, name: str) -> Estimate:
        if name not in backends_of:
            return IMPOSSIBLE
        found = backends[name].estimate(region, rows, threads)
        return costs.unit(name, region, rows, threads) if found is None else found

    table = tuple(tuple(own(unit.backends, unit.region, name) for name in graph.backends) for unit in graph.units)
    sizes = Bytes(graph.program, rows)
    return CostTable(
        graph,
        rows,
        table,
        tuple(costs.launch(name, threads) for name in graph.backends),
        functools.cache(sizes.of),
        functools.cache(lambda source, destination, nbytes: costs.handoff(source, destination, nbytes, threads)),
    )
