"""The plans of a program at one batch size: choices of a backend for each unit, the cheapest first by predicted cost."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from recfx.cost.estimate import Estimate
from recfx.placement.costs import TORCH, CostTable
from recfx.placement.moves import Moves
from recfx.placement.regions import costed_regions, total
from recfx.placement.solve import Costs, Problem, solve

#: Shares of the cost of a region's call that each edge between two backends is charged with. The number of calls is not a sum over edges,
#: so the problem is solved with several shares. Large shares give few large regions, whose operators a backend can fuse.
_CALL_SHARES = (0.5, 0.0, 1.0, 5.0)
#: How many of the cheapest plans are improved by exchanges of single regions.
_IMPROVED = 3
#: The most choices that are all tried, which takes some 10 ms.
_ALL = 729


@dataclasses.dataclass(frozen=True)
class Plan:
    """A choice of a backend for each unit.

    Attributes:
        labels: The backend of each unit, as its index among the backends of the units.
        cost: The predicted time of a call.
        name: What the plan is: "native", "native + eager", "openvino + native".
    """

    labels: tuple[int, ...]
    cost: Estimate
    name: str


def plan_of(table: CostTable, labels: Sequence[int]) -> Plan:
    """A choice of backends with its predicted cost."""
    return Plan(tuple(labels), total(costed_regions(table, labels)), plan_name(table, labels))


def plan_name(table: CostTable, labels: Iterable[int]) -> str:
    """The backends of a plan, the one with the most units first."""
    names = [table.backend(label) for label in labels]
    return " + ".join(sorted(set(names), key=lambda name: (-names.count(name), name))) or TORCH


def in_order(table: CostTable, names: Sequence[str]) -> Plan:
    """The plan in which each unit is on the first backend of a list that supports it; on torch if none of the list does."""
    index = {name: at for at, name in enumerate(table.graph.backends)}
    labels = [
        index[next((name for name in (*names, TORCH) if name in unit.backends), TORCH)] for unit in table.graph.units
    ]
    return plan_of(table, labels)


def single_plans(table: CostTable) -> list[Plan]:
    """For each backend, the plans in which it runs all units that it supports: torch, or the first other backend, runs the rest."""
    names = table.graph.backends
    plans = [in_order(table, order) for name in names for order in ([name], [name, *names]) if name != TORCH]
    plans.append(in_order(table, [TORCH]))
    return list({plan.labels: plan for plan in plans}.values())


def best_plans(table: CostTable) -> list[Plan]:
    """Plans by predicted cost: the cheapest for each of several subsets of the backends, all of one backend, and for a small graph the
    cheapest of all."""
    found: dict[tuple[int, ...], Plan] = {plan.labels: plan for plan in single_plans(table)}
    for allowed, share in _variations(len(table.graph.backends), _torch(table)):
        solution = solve(_problem(table, allowed, share))
        if np.isfinite(solution.cost) and solution.labels not in found:
            found[solution.labels] = plan_of(table, solution.labels)
    moves = Moves(table)
    better = [moves.improved(plan.labels) for plan in sorted(found.values(), key=_seconds)[:_IMPROVED]]
    for labels in (*better, moves.cheapest(_ALL)):
        if labels is not None and labels not in found:
            found[labels] = plan_of(table, labels)
    return sorted(found.values(), key=_seconds)


def _seconds(plan: Plan) -> float:
    return plan.cost.seconds


def _torch(table: CostTable) -> int:
    return table.graph.backends.index(TORCH)


def _variations(backends: int, torch: int) -> Iterator[tuple[frozenset[int], float]]:
    """Subsets of the backends, all of which contain torch, with shares of the calls."""
    others = [label for label in range(backends) if label != torch]
    for share in _CALL_SHARES:
        yield frozenset(range(backends)), share
    subsets = {
        *(frozenset({*others} - {label}) for label in others),
        *(frozenset({label}) for label in others),
        *map(frozenset, itertools.combinations(others, 2)),
    }
    for subset in sorted(subsets - {frozenset(others)}, key=sorted):
        if subset:
            yield subset | {torch}, _CALL_SHARES[0]


def _problem(table: CostTable, allowed: frozenset[int], call_share: float) -> Problem:
    """The costs for the solver.

    Args:
        table: The costs.
        allowed: The backends that may be chosen.
        call_share: The share of a region's call that each edge between two backends is charged with.
    """
    graph, names = table.graph, table.graph.backends
    own = np.array([[estimate.seconds for estimate in row] for row in table.own]).reshape(len(graph.units), len(names))
    own[:, [label for label in range(len(names)) if label not in allowed]] = np.inf
    own += _boundary(table)
    calls = np.array([estimate.seconds for estimate in table.launches])
    other = 1.0 - np.eye(len(names))
    pairs: dict[tuple[int, int], Costs] = {}
    for (producer, consumer), tensors in graph.edges().items():
        costs = call_share * calls[None, :] * other
        for nbytes in map(table.nbytes, tensors):
            costs = costs + _handoffs(table, nbytes)
        if (consumer, producer) in pairs:
            pairs[consumer, producer] = pairs[consumer, producer] + costs.T
        else:
            pairs[producer, consumer] = costs
    return Problem(own, pairs)


def _handoffs(table: CostTable, nbytes: int) -> Costs:
    """The time of a hand-off between each two backends."""
    names = table.graph.backends
    return np.array([[table.handoff(a, b, nbytes).seconds if a != b and nbytes else 0.0 for b in names] for a in names])


def _boundary(table: CostTable) -> Costs:
    """The hand-offs of the program's inputs and outputs, for each unit and backend."""
    graph, names = table.graph, table.graph.backends
    costs = np.zeros((len(graph.units), len(names)))
    returned = next(iter(reversed(graph.program.graph.nodes))).all_input_nodes
    read = {(s, u) for node, u in graph.unit_of.items() for s in node.all_input_nodes if s.op == "placeholder"}
    for label, name in enumerate(names):
        if name == TORCH:
            continue
        for source, unit in read:
            if nbytes := table.nbytes(source):
                costs[unit, label] += table.handoff(TORCH, name, nbytes).seconds
        for node in returned:
            if node in graph.unit_of and (nbytes := table.nbytes(node)):
                costs[graph.unit_of[node], label] += table.handoff(name, TORCH, nbytes).seconds
    return costs
