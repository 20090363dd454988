"""Which plans are worth lowering and measuring, by the intervals of their predicted times at several batch sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from recfx.cost.estimate import Estimate
from recfx.placement.costs import CostTable
from recfx.placement.module_plans import module_plans
from recfx.placement.plans import Plan, best_plans, in_order, plan_of, single_plans

#: A plan must be predicted to save this share of the time of the first plan, at the hopeful end of its interval, to be lowered.
_LEAST_GAIN = 0.03
#: Without a measurement, the expected time must save this share.
_SURE_GAIN = 0.1
#: Plans that differ in at most this share of the units are not both lowered.
_ALIKE = 0.05
#: The most plans of one module that are lowered.
_MODULE_PLANS = 3
#: The most plans that are lowered beside the first one.
MOST_PLANS = 8


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A plan that is worth lowering.

    Attributes:
        labels: The backend of each unit, as its index.
        name: Its backends.
        predicted: Batch size -> the predicted time of a call.
    """

    labels: tuple[int, ...]
    name: str
    predicted: Mapping[int, Estimate]


def candidates(tables: Sequence[CostTable], first: Sequence[str]) -> list[Candidate]:
    """The plan that runs in any case, followed by plans that may be faster at some batch size: the most promising one, those in which one
    backend runs all it can, those in which one module runs on another backend, and further promising ones.

    Args:
        tables: The costs at each batch size.
        first: The backends of the plan that runs in any case, in the order in which they are tried.
    """
    base = in_order(tables[0], first)
    gains: dict[tuple[int, ...], float] = {}
    modules: dict[tuple[int, ...], None] = {}
    for table in tables:
        known = certain(table, base.labels)
        bound = plan_of(known, base.labels).cost.seconds
        by_module = dict.fromkeys(module_plans(known, base.labels))
        modules |= by_module
        for plan in [*best_plans(known), *(plan_of(known, labels) for labels in by_module)]:
            if plan.labels != base.labels and plan.cost.low < (1 - _LEAST_GAIN) * bound:
                gains[plan.labels] = max(gains.get(plan.labels, -1.0), 1 - plan.cost.seconds / bound)
    ranked = sorted(gains, key=lambda labels: -gains[labels])
    single = [plan.labels for plan in single_plans(tables[0]) if plan.labels in gains]
    chosen = [base.labels]
    wholes = [labels for labels in ranked if labels in modules][:_MODULE_PLANS]
    for labels in (*ranked[:1], *single, *wholes, *ranked[1:]):
        if len(chosen) <= MOST_PLANS and not any(_alike(labels, other) for other in chosen):
            chosen.append(labels)
    return [_candidate(tables, labels) for labels in chosen]


def _alike(labels: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two plans differ in so few units that measuring both tells little; equal plans are alike."""
    return sum(a != b for a, b in zip(labels, others, strict=True)) <= _ALIKE * len(labels)


def _candidate(tables: Sequence[CostTable], labels: tuple[int, ...]) -> Candidate:
    plans = [plan_of(table, labels) for table in tables]
    return Candidate(labels, plans[0].name, {t.rows: p.cost for t, p in zip(tables, plans, strict=True)})


def predicted_best(found: Sequence[Candidate], rows: int) -> Candidate:
    """The candidate with the lowest predicted time at a batch size; the first one unless another is faster beyond doubt."""
    best = min(found, key=lambda candidate: candidate.predicted[rows].seconds)
    first = found[0].predicted[rows].seconds
    return best if best.predicted[rows].seconds < (1 - _SURE_GAIN) * first else found[0]


def certain(table: CostTable, labels: Sequence[int]) -> CostTable:
    """The costs with exact times for the choices of a plan, so that an interval of another plan is that of its difference to it."""
    own = tuple(
        tuple(Estimate.exactly(e.seconds) if label == chosen else e for label, e in enumerate(row))
        for row, chosen in zip(table.own, labels, strict=True)
    )
    return dataclasses.replace(table, own=own)


def may_gain(table: CostTable, base: Plan) -> bool:
    """Whether some choice of backends could be faster than a plan, if each unit took the lowest time that is expected of any backend.

    Args:
        table: Costs that assume that every backend runs every unit.
        base: The plan.
    """
    floors = [min(estimate.low for estimate in row) for row in certain(table, base.labels).own]
    calls = min(launch.low for launch in table.launches)
    return sum(floors) + calls < (1 - _LEAST_GAIN) * base.cost.seconds
