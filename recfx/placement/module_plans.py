"""Plans in which one module of the user's model runs on another backend than the rest.

Modules are where models change from one kind of work to another: an image tower beside lookups, a text encoder in a tower. Such a plan has
few hand-offs, and the backend sees the whole module. A search over single units meets these plans only if every unit of the module is
predicted to be faster there, and units alone are predicted too high: a backend fuses what is in one region.
"""

from __future__ import annotations

from collections.abc import Sequence

from recfx.ir.provenance import module_path
from recfx.placement.costs import TORCH, CostTable

#: A module takes at least this share of the predicted time of the plan that is changed.
_LEAST_SHARE = 0.2
#: The most modules, the slowest first.
_MOST_MODULES = 3


def module_plans(table: CostTable, labels: Sequence[int]) -> list[tuple[int, ...]]:
    """The choices of backends that differ from another choice in one module, for each backend that can run half of the module's time.

    Torch is not among these backends: it fuses nothing, so its units take the same time together as alone.

    Args:
        table: The costs.
        labels: The choice that is changed.
    """
    found = []
    for units in _modules(table, labels):
        for label, backend in enumerate(table.graph.backends):
            if backend == TORCH:
                continue
            moved = [unit for unit in units if table.own[unit][label].seconds < float("inf")]
            if 2 * _seconds(table, labels, moved) < _seconds(table, labels, units):
                continue
            changed = tuple(label if unit in moved else old for unit, old in enumerate(labels))
            if changed != tuple(labels) and changed not in found:
                found.append(changed)
    return found


def _modules(table: CostTable, labels: Sequence[int]) -> list[list[int]]:
    """The units of each module that takes much of the time, but not all of it, the slowest module first."""
    members: dict[str, list[int]] = {}
    for index, unit in enumerate(table.graph.units):
        path = next(filter(None, map(module_path, unit.nodes)), "")
        parts = path.split(".") if path else []
        for depth in range(1, len(parts) + 1):
            members.setdefault(".".join(parts[:depth]), []).append(index)
    every = range(len(table.graph.units))
    whole = _seconds(table, labels, every)
    distinct = {tuple(units): None for units in members.values() if len(units) < len(every)}
    times = {units: _seconds(table, labels, units) for units in distinct}
    large = [units for units, seconds in times.items() if seconds >= _LEAST_SHARE * whole > 0]
    return [list(units) for units in sorted(large, key=lambda units: -times[units])[:_MOST_MODULES]]


def _seconds(table: CostTable, labels: Sequence[int], units: Sequence[int]) -> float:
    return sum(table.own[unit][labels[unit]].seconds for unit in units)
