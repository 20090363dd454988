"""Costs given by tests, and small programs for placement."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from recfx.cost.estimate import Estimate
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.placement.costs import CostTable, cost_table
from recfx.placement.units import unit_graph
from recfx.targets import Backend, EagerBackend, Verdict
from recfx.testing import GraphBuilder

aten = torch.ops.aten


class TableCosts:
    """Costs from a table: seconds of each operator by backend, of calls and of hand-offs.

    Args:
        own: Backend -> operator name -> seconds for one row; a missing operator takes `default`.
        call: Backend -> seconds of a call.
        byte: Seconds of the hand-off of one byte.
        spread: The interval of a unit's time: from `1 / spread` to `spread` times its seconds.
    """

    def __init__(
        self,
        own: Mapping[str, Mapping[str, float]],
        *,
        call: Mapping[str, float] | None = None,
        byte: float = 0.0,
        handoff: float = 0.0,
        default: float = 1e-6,
        spread: float = 1.0,
    ) -> None:
        self.own, self.calls, self.byte, self.default = own, call or {}, byte, default
        self.hand, self.spread = handoff, spread
        self.recorded: list[tuple[str, int]] = []

    def unit(self, backend: str, region: Region, rows: int, threads: int) -> Estimate:
        of = self.own.get(backend, {})
        names = [n.name for n in region.graph.nodes if n.op == "call_function"]
        seconds = rows * sum(of.get(name, self.default) for name in names)
        return Estimate(seconds, seconds / self.spread, seconds * self.spread)

    def launch(self, backend: str, threads: int) -> Estimate:
        return Estimate.exactly(self.calls.get(backend, 0.0))

    def handoff(self, source: str, destination: str, nbytes: int, threads: int) -> Estimate:
        return Estimate.exactly(self.hand + self.byte * nbytes)

    def record(self, backend: str, region: Region, rows: int, threads: int, measured: Estimate) -> None:
        self.recorded.append((backend, rows))


class RandomCosts(TableCosts):
    """Costs that a hash of the operator, the backend and a seed gives."""

    def __init__(self, seed: int, **more: Any) -> None:
        super().__init__({}, **more)
        self.seed = seed

    def unit(self, backend: str, region: Region, rows: int, threads: int) -> Estimate:
        names = [n.name for n in region.graph.nodes if n.op == "call_function"]
        seconds = sum(self._number(f"{backend} {name}") for name in names)
        return Estimate.exactly(seconds * 1e-6)

    def _number(self, text: str) -> float:
        digest = hashlib.sha256(f"{self.seed} {text}".encode()).digest()
        return 1 + digest[0] / 16


def named_backends(names: Sequence[str]) -> dict[str, Backend]:
    """Backends with these names that run everything."""
    made: dict[str, Backend] = {}
    for name in names:
        kind = type(name.title(), (EagerBackend,), {"name": name})
        made[name] = kind()
    return made


def table_of(
    program: Program,
    costs: TableCosts,
    names: Sequence[str],
    refused: Mapping[str, Sequence[str]] | None = None,
    rows: int = 1,
) -> CostTable:
    """The costs of a program on backends that run all operators but the refused ones: backend -> names of operators."""
    unable = refused or {}
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    verdicts = {
        name: {node: Verdict(node.name not in unable.get(name, ()), "refused by the test") for node in calls}
        for name in names
    }
    return cost_table(unit_graph(program, verdicts), named_backends(names), costs, rows, 1)


def chain(*targets: Any, width: int = 4) -> Program:
    """Operators that each read the result of the one before."""
    b = GraphBuilder({"x": ("batch", width)})
    value: fx.Node = b.inputs["x"]
    for index, target in enumerate(targets):
        extra = (b.state(f"w{index}", torch.randn(width, width)),) if target is aten.linear.default else ()
        value = b.call(target, value, *extra)
    return b.build(value)
