"""The cheapest choice of one label for each variable, with a cost for each label and a table of costs for each pair of variables.

Variables are eliminated one after another: the costs of all factors with a variable are added, and the minimum over its labels becomes a
factor of its neighbours (non-serial dynamic programming). The result is exact. The order, min-fill, eliminates the variable whose
neighbours lack the fewest pairs. With k labels a factor of w neighbours has k^(w+1) entries; graphs of recommendation models have w <= 3.
Where a factor would be too large, pairs of variables that prefer the same label are merged first, and a local search follows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]

#: The most entries of a factor of an exact elimination.
MOST_ENTRIES = 1_000_000
#: Passes of the local search over all variables.
_PASSES = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """Costs of labels.

    Attributes:
        own: Cost of each label of each variable [variables, labels]; infinity forbids a label.
        pairs: (variable, other variable) -> cost of each pair of their labels [labels, labels]. Each pair of variables occurs in one
            order only. Tables need not be symmetric.
    """

    own: Costs
    pairs: Mapping[tuple[int, int], Costs]

    def cost(self, labels: Sequence[int]) -> float:
        """The cost of a choice of labels."""
        total = sum(float(self.own[v, label]) for v, label in enumerate(labels))
        return total + sum(float(table[labels[u], labels[v]]) for (u, v), table in self.pairs.items())


@dataclasses.dataclass(frozen=True)
class Solution:
    """A choice of labels.

    Attributes:
        labels: The label of each variable.
        cost: Its cost; infinity if no choice has a finite cost.
        exact: Whether no other choice costs less.
    """

    labels: tuple[int, ...]
    cost: float
    exact: bool


def solve(problem: Problem, most_entries: int = MOST_ENTRIES) -> Solution:
    """The cheapest choice of labels.

    Args:
        problem: The costs.
        most_entries: The most entries of a factor. With larger factors the result is not exact.
    """
    variables, labels = problem.own.shape
    if not variables:
        return Solution((), 0.0, True)
    order, width = min_fill(variables, problem.pairs)
    if labels ** (width + 1) <= most_entries:
        found = _eliminate(problem, order)
        return Solution(found, problem.cost(found), True)
    return _approximate(problem, most_entries)


def min_fill(variables: int, pairs: Mapping[tuple[int, int], Costs]) -> tuple[list[int], int]:
    """An order of elimination, and the most neighbours that a variable has when it is eliminated.

    Args:
        variables: The number of variables.
        pairs: Pairs of variables that share a table.
    """
    neighbours: list[set[int]] = [set() for _ in range(variables)]
    for u, v in pairs:
        neighbours[u].add(v)
        neighbours[v].add(u)
    fill = {v: _missing_pairs(v, neighbours) for v in range(variables)}
    order: list[int] = []
    width = 0
    while fill:
        chosen = min(fill, key=lambda v: (fill[v], len(neighbours[v]), v))
        del fill[chosen]
        order.append(chosen)
        near = neighbours[chosen]
        width = max(width, len(near))
        for u in near:
            neighbours[u] |= near - {u}
            neighbours[u].discard(chosen)
        changed = near.union(*(neighbours[u] for u in near))
        fill |= {v: _missing_pairs(v, neighbours) for v in changed}
    return order, width


def _missing_pairs(variable: int, neighbours: Sequence[set[int]]) -> int:
    """How many pairs of the neighbours of a variable are not neighbours of each other."""
    near = neighbours[variable]
    return sum(len(near) - 1 - len(near & neighbours[u]) for u in near) // 2


def _eliminate(problem: Problem, order: Sequence[int]) -> tuple[int, ...]:
    """The exact solution by elimination in an order."""
    variables, labels = problem.own.shape
    held: list[list[tuple[tuple[int, ...], Costs]]] = [[((v,), problem.own[v])] for v in range(variables)]
    place = {v: at for at, v in enumerate(order)}
    for pair, table in problem.pairs.items():
        held[min(pair, key=place.__getitem__)].append((pair, table))
    choices: list[tuple[int, tuple[int, ...], npt.NDArray[np.intp]]] = []
    for v in order:
        scope = (v, *sorted({u for factor, _ in held[v] for u in factor} - {v}))
        total = np.zeros((labels,) * len(scope))
        for factor, table in held[v]:
            total = total + _spread(table, factor, scope)
        choices.append((v, scope[1:], total.argmin(axis=0)))
        if len(scope) > 1:
            following = min(scope[1:], key=place.__getitem__)
            held[following].append((scope[1:], total.min(axis=0)))
    found = [0] * variables
    for v, scope, choice in reversed(choices):
        found[v] = int(choice[tuple(found[u] for u in scope)])
    return tuple(found)


def _spread(table: Costs, factor: Sequence[int], scope: Sequence[int]) -> Costs:
    """A factor with its axes in the order of a scope, and axes of length one for the scope's other variables."""
    axes = sorted(range(len(factor)), key=lambda axis: scope.index(factor[axis]))
    inside = set(factor)
    return table.transpose(axes).reshape([table.shape[0] if v in inside else 1 for v in scope])


def _approximate(problem: Problem, most_entries: int) -> Solution:
    """Merges variables until the elimination is small enough, then changes single variables as long as that lowers the cost."""
    variables, labels = problem.own.shape
    group_of = list(range(variables))
    strongest = sorted(problem.pairs, key=lambda pair: -_preference(problem.pairs[pair]))
    starts = [tuple(int(label) for label in problem.own.argmin(axis=1))]
    starts += [
        tuple(label if np.isfinite(row[label]) else int(row.argmin()) for row in problem.own) for label in range(labels)
    ]
    step = max(1, len(strongest) // 16)
    for at in range(0, len(strongest), step):
        for u, v in strongest[at : at + step]:
            _merge(group_of, problem.own, u, v)
        merged, index = _merged(problem, group_of)
        order, width = min_fill(len(merged.own), merged.pairs)
        if labels ** (width + 1) <= most_entries:
            found = _eliminate(merged, order)
            starts.append(tuple(found[index[group]] for group in group_of))
            break
    best = min((_improved(problem, start) for start in dict.fromkeys(starts)), key=problem.cost)
    return Solution(best, problem.cost(best), False)


def _preference(table: Costs) -> float:
    """By how much a table prefers equal labels: the mean of finite costs of unequal labels, less that of equal labels."""
    equal = np.eye(len(table), dtype=bool)
    with_bound = np.where(np.isfinite(table), table, 0.0)
    return float(with_bound[~equal].mean() - with_bound[equal].mean()) if len(table) > 1 else 0.0


def _merge(group_of: list[int], own: Costs, u: int, v: int) -> None:
    """Merges the groups of two variables if some label is possible for both."""
    first, second = group_of[u], group_of[v]
    if first == second:
        return
    joined = [w for w, group in enumerate(group_of) if group in (first, second)]
    if np.isfinite(own[joined].sum(axis=0)).any():
        for w in joined:
            group_of[w] = first


def _merged(problem: Problem, group_of: Sequence[int]) -> tuple[Problem, dict[int, int]]:
    """The problem with one variable for each group, and the variable of each group."""
    index = {group: at for at, group in enumerate(dict.fromkeys(group_of))}
    labels = problem.own.shape[1]
    own = np.zeros((len(index), labels))
    pairs: dict[tuple[int, int], Costs] = {}
    for v, group in enumerate(group_of):
        own[index[group]] += problem.own[v]
    for (u, v), table in problem.pairs.items():
        a, b = index[group_of[u]], index[group_of[v]]
        if a == b:
            own[a] += table.diagonal()
        elif (b, a) in pairs:
            pairs[b, a] = pairs[b, a] + table.T
        else:
            pairs[a, b] = pairs.get((a, b), 0.0) + table
    return Problem(own, pairs), index


def _improved(problem: Problem, start: Sequence[int]) -> tuple[int, ...]:
    """A choice of labels that no change of a single variable makes cheaper, reached from a start."""
    labels = list(start)
    near: list[list[tuple[int, Costs]]] = [[] for _ in labels]
    for (u, v), table in problem.pairs.items():
        near[u].append((v, table))
        near[v].append((u, table.T))
    for _ in range(_PASSES):
        changed = False
        for v, others in enumerate(near):
            cost = problem.own[v] + sum((table[:, labels[u]] for u, table in others), np.zeros(problem.own.shape[1]))
            best = int(cost.argmin())
            if cost[best] < cost[labels[v]] or (math.isinf(cost[labels[v]]) and best != labels[v]):
                labels[v] = best
                changed = True
        if not changed:
            break
    return tuple(labels)
