"""What the report says about placement: the plans with their times, and the regions of the plan that runs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from recfx.driver.placed import Placed
from recfx.ir.provenance import module_path
from recfx.placement.costs import CostTable
from recfx.targets import Verdict
from recfx.targets.base import is_operator

#: The most reasons of a backend that a region lists.
_MOST_REASONS = 5


@dataclasses.dataclass(frozen=True)
class PlanTimes:
    """A plan that competed.

    Attributes:
        name: Its backends: "openvino + native".
        predicted: Pairs of a batch size and the predicted seconds of a call.
        measured: Pairs of a batch size and the measured seconds of a call; empty if the plan was not measured.
        used: The batch sizes at which it runs, in words; "" if it does not run.
        note: Why it was not measured, or what failed.
    """

    name: str
    predicted: tuple[tuple[int, float], ...] = ()
    measured: tuple[tuple[int, float], ...] = ()
    used: str = ""
    note: str = ""

    def __str__(self) -> str:
        parts = []
        for title, pairs in (("predicted", self.predicted), ("measured", self.measured)):
            if pairs:
                parts.append(f"{title} " + ", ".join(f"{in_units(seconds)} at {rows}" for rows, seconds in pairs))
        runs = f"runs {self.used}" if self.used else ""
        return f"{self.name}: " + "; ".join(filter(None, [runs, *parts, self.note]))


@dataclasses.dataclass(frozen=True)
class Alternative:
    """What another backend was predicted to take for a region, or why it cannot run it.

    Attributes:
        backend: The backend.
        predicted: Seconds in one call; None if it cannot run the region, or if nothing was predicted.
        reasons: Operators that it refuses, with the reasons.
    """

    backend: str
    predicted: float | None = None
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.reasons:
            return f"{self.backend} refuses {'; '.join(self.reasons)}"
        return f"{self.backend} {in_units(self.predicted)} predicted" if self.predicted is not None else self.backend


@dataclasses.dataclass(frozen=True)
class RegionReport:
    """A region of the plan that runs at the example's batch size.

    Attributes:
        backend: Its backend.
        operators: Its operators: name and number.
        modules: The user's modules that its operators come from.
        predicted: Predicted seconds in one call; None without a prediction.
        measured: Measured seconds in one call; None if it was not measured.
        others: The other backends of the target.
    """

    backend: str
    operators: tuple[tuple[str, int], ...]
    modules: tuple[str, ...] = ()
    predicted: float | None = None
    measured: float | None = None
    others: tuple[Alternative, ...] = ()

    def lines(self, index: int) -> list[str]:
        """The text of the region."""
        times = [
            f"{in_units(seconds)} {kind}"
            for seconds, kind in ((self.predicted, "predicted"), (self.measured, "measured"))
            if seconds is not None
        ]
        names = ", ".join(f"{name} × {count}" if count > 1 else name for name, count in self.operators[:6])
        more = f" and {len(self.operators) - 6} more kinds" if len(self.operators) > 6 else ""
        return [
            f"region {index} on {self.backend}: {'; '.join([*times, names + more])}",
            *(f"  {other}" for other in self.others),
        ]


def in_units(seconds: float | None) -> str:
    """Seconds as text: "12.3 µs"."""
    if seconds is None:
        return "?"
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def region_reports(
    placed: Placed,
    table: CostTable | None = None,
    verdicts: Mapping[str, Mapping[fx.Node, Verdict]] | None = None,
    measured: Sequence[float | None] = (),
) -> tuple[RegionReport, ...]:
    """The regions of a lowered program.

    Args:
        placed: The lowered program.
        table: The predicted costs at the example's batch size.
        verdicts: Backend -> its verdict on each operator of the program.
        measured: Seconds of each region.
    """
    nodes = {node.name: node for node in placed.program.graph.nodes}
    found = []
    for index, backend in enumerate(placed.backends):
        members = [nodes[name] for name in placed.split.members(index) if name in nodes]
        operators = Counter(str(node.target) for node in members if is_operator(node))
        modules = dict.fromkeys(filter(None, map(module_path, members)))
        names = table.graph.backends if table is not None else tuple(verdicts or {})
        others = tuple(_alternative(name, members, table, verdicts or {}) for name in names if name != backend)
        found.append(
            RegionReport(
                backend,
                tuple(operators.most_common()),
                tuple(modules),
                _predicted(backend, members, table),
                measured[index] if index < len(measured) else None,
                others,
            )
        )
    return tuple(found)


def _predicted(backend: str, members: Iterable[fx.Node], table: CostTable | None) -> float | None:
    """Predicted seconds of some operators and their call on a backend; None if a unit of them has no finite time."""
    if table is None or backend not in table.graph.backends:
        return None
    label = table.graph.backends.index(backend)
    units = dict.fromkeys(table.graph.unit_of[node] for node in members if node in table.graph.unit_of)
    seconds = table.launches[label].seconds + sum(table.own[unit][label].seconds for unit in units)
    return seconds if seconds < float("inf") else None


def _alternative(
    name: str,
    members: Sequence[fx.Node],
    table: CostTable | None,
    verdicts: Mapping[str, Mapping[fx.Node, Verdict]],
) -> Alternative:
    of = verdicts.get(name, {})
    refused = [(str(node.target), of[node].reason) for node in members if node in of and not of[node]]
    reasons = [f"{target}: {reason}" for target, reason in dict.fromkeys(refused)]
    shown = reasons[:_MOST_REASONS] + (
        [f"and {len(reasons) - _MOST_REASONS} more"] if len(reasons) > _MOST_REASONS else []
    )
    return Alternative(name, None if reasons else _predicted(name, members, table), tuple(shown))
