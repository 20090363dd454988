"""Finds the composition of compression steps that saves most inside a budget, with few measurements of compositions.

All steps are applied. If the composition is over the budget, steps are taken back from the front of a list that is ordered by harm; a
bisection finds how many. Then steps that were taken back only because they stood before the decisive one are applied again, in halves.
Every composition is measured as a whole: drops of single steps do not add up.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

#: How often the bisection divides the estimated harm, before it divides the number of steps, which no wrong estimate can slow down.
_BY_HARM = 2


@dataclasses.dataclass(frozen=True)
class Measured:
    """A composition that was measured.

    Attributes:
        reverted: The steps taken back.
        fits: Whether it is inside the budget.
    """

    reverted: frozenset[int]
    fits: bool


@dataclasses.dataclass
class Search:
    """A search over compositions.

    Attributes:
        order: The steps, the first to be taken back first.
        measure: Steps taken back -> whether the composition of the others is inside the budget.
        limit: The most measurements.
        saved: Step -> what it saves. Of the compositions inside the budget, the one that saves most wins.
        harm: Step -> its estimated harm.
        closed: Adds to steps taken back those that build on them.
        found: The compositions that were measured, in order.
        interrupted: Whether the user interrupted the search.
    """

    order: Sequence[int]
    measure: Callable[[frozenset[int]], bool]
    limit: int
    saved: Callable[[int], float]
    harm: Callable[[int], float] = lambda step: 1.0
    closed: Callable[[frozenset[int]], frozenset[int]] = frozenset
    found: list[Measured] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    def run(self) -> frozenset[int]:
        """The steps to take back. If no measured composition is inside the budget, all of them."""
        try:
            self._run()
        except KeyboardInterrupt:
            self.interrupted = True
        except _Spent:
            pass
        return self.best()

    def best(self) -> frozenset[int]:
        """The steps to take back of the best composition that was measured inside the budget; all of them without one."""
        fitting = [each.reverted for each in self.found if each.fits]
        return min(fitting, key=lambda reverted: sum(map(self.saved, reverted)), default=frozenset(self.order))

    def _run(self) -> None:
        order = list(self.order)
        if not order or self._fits(frozenset()):
            return
        over, inside = 0, len(order)  # numbers of steps taken back; taking back all of them needs no measurement
        for turn in itertools.count():
            if inside - over < 2:
                break
            middle = self._by_harm(order, over, inside) if turn < _BY_HARM else (over + inside) // 2
            over, inside = (over, middle) if self._fits(frozenset(order[:middle])) else (middle, inside)
        least = self.harm(order[inside - 1])
        for wanted in (True, False):  # steps of more harm than the decisive one will rarely fit
            pool = [step for step in order[: inside - 1] if (self.harm(step) <= least) is wanted]
            self._reapply(pool, self._smallest(frozenset(order[:inside])))

    def _by_harm(self, order: list[int], over: int, inside: int) -> int:
        """The number of steps between two others that divides their estimated harm in half."""
        harms = list(itertools.accumulate(self.harm(step) for step in order[over:inside]))
        middle = next((place for place, harm in enumerate(harms, 1) if harm >= harms[-1] / 2), 1)
        return over + min(middle, inside - over - 1)

    def _reapply(self, pool: list[int], reverted: frozenset[int]) -> None:
        """Applies the steps of a pool again: all at once if that is inside the budget, otherwise the halves, the less harmful one first."""
        if not pool:
            return
        if self._fits(reverted - frozenset(pool)):
            return
        if len(pool) == 1:
            return
        half = len(pool) // 2
        for part in (pool[half:], pool[:half]):
            self._reapply(part, reverted)
            reverted = self._smallest(reverted)

    def _smallest(self, reverted: frozenset[int]) -> frozenset[int]:
        """The smallest part of these steps that was measured to be enough to take back."""
        enough = [each.reverted for each in self.found if each.fits and each.reverted < reverted]
        return min((reverted, *enough), key=len)

    def _fits(self, reverted: frozenset[int]) -> bool:
        reverted = self.closed(reverted)
        known = next((each.fits for each in self.found if each.reverted == reverted), None)
        if known is not None:
            return known
        if len(self.found) >= self.limit:
            raise _Spent
        fits = self.measure(reverted)
        self.found.append(Measured(reverted, fits))
        return fits


class _Spent(Exception):
    """All measurements are used up."""
