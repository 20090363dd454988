"""The plans of a competition: what is kept of them, and what the report says about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from recfx.driver.placed import Placed
from recfx.driver.placement_report import PlanTimes
from recfx.driver.plan_times import Choice
from recfx.driver.plans import Plans
from recfx.placement.search import Candidate


@dataclasses.dataclass(eq=False)
class Entry:
    """A plan in the competition.

    Attributes:
        candidate: The choice of backends.
        placed: The lowered plan; None before it is lowered, and if that failed.
        note: What is to be said about it.
    """

    candidate: Candidate
    placed: Placed | None = None
    note: str = ""


def kept(entries: Sequence[Entry], choice: Choice, example: int) -> Plans:
    """The plans that run at some batch size, the most used first, and the first plan as the last fallback."""
    used = sorted(dict.fromkeys(use for use in choice.uses if use), key=lambda use: -choice.uses.count(use))
    order = [*used, 0]
    placed = tuple(plan for index in order if (plan := entries[index].placed) is not None)
    uses = tuple(order.index(use) for use in choice.uses)
    shown = uses[sum(example >= bound for bound in choice.bounds)]
    return Plans(placed, choice.bounds, uses, shown)


def times_of(entries: Sequence[Entry], choice: Choice, sizes: Sequence[int]) -> tuple[PlanTimes, ...]:
    """What the report says about the plans."""
    return tuple(
        PlanTimes(
            entry.candidate.name,
            tuple((rows, entry.candidate.predicted[rows].seconds) for rows in sizes),
            tuple(sorted(choice.seconds.get(index, {}).items())),
            _ranges(index, choice),
            entry.note,
        )
        for index, entry in enumerate(entries)
    )


def _ranges(index: int, choice: Choice) -> str:
    """The batch sizes at which a plan runs, in words."""
    ends: list[Any] = [None, *choice.bounds, None]
    texts = []
    for use, low, high in zip(choice.uses, ends, ends[1:], strict=False):
        if use == index:
            below = f"below {high} rows" if high is not None else ""
            texts.append(
                " and ".join(filter(None, [f"from {low} rows" if low is not None else "", below])) or "at all sizes"
            )
    return ", ".join(texts)
