"""Finds the composition of compression steps that saves most inside a budget, with few measurements of compositions.

For a total harm, `allocate` gives the composition that saves most. The total harm is raised or lowered by what was measured until the
budget is reached. Where less harm does not lower what is measured, the estimates miss a step that decides: steps are then taken back from
the front of a list that is ordered by harm, and a bisection finds how many. Steps that were taken back only because they stood before
the decisive one are applied again, in halves. Every composition is measured as a whole: drops of single steps do not add up.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

#: The most by which the total harm changes at once, and the ratio of two total harms between which nothing is tried.
_STRIDE, _CLOSE = 16.0, 1.2
#: The most total harms that are tried; most give a composition that is known already.
_MOST_LEVELS = 64
#: If half of the harm or less leaves more than this part of what was measured, the estimates do not explain it.
_UNEXPLAINED = 0.8

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
        worth: Steps taken back -> what the composition saves; by default what the others save, each by itself.
        allocate: Total harm -> the steps to take back of the composition that saves most with it; None to bisect at once.
        share: Steps taken back -> what was measured of the composition, as a part of the budget; None if that is not a positive number.
        start: The first total harm.
        found: The compositions that were measured, in order.
        interrupted: Whether the user interrupted the search.
    """

    order: Sequence[int]
    measure: Callable[[frozenset[int]], bool]
    limit: int
    saved: Callable[[int], float]
    harm: Callable[[int], float] = lambda step: 1.0
    closed: Callable[[frozenset[int]], frozenset[int]] = frozenset
    worth: Callable[[frozenset[int]], float] | None = None
    allocate: Callable[[float], frozenset[int]] | None = None
    share: Callable[[frozenset[int]], float | None] = lambda reverted: None
    start: float = 1.0
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
        return max(fitting, key=self._worth, default=frozenset(self.order))

    def _worth(self, reverted: frozenset[int]) -> float:
        return -sum(map(self.saved, reverted)) if self.worth is None else self.worth(reverted)

    def _run(self) -> None:
        if not self.order:
            return
        if self.allocate is None:
            self._bisect(frozenset())
            return
        inside, over = self._levels(self.allocate)
        if inside is None:
            self._bisect(over)
        else:
            self._reapply([step for step in self.order if step in inside - over], inside)

    def _levels(self, allocate: Callable[[float], frozenset[int]]) -> tuple[frozenset[int] | None, frozenset[int]]:
        """The compositions of the largest total harm that was inside the budget, if one was, and of the smallest one that was over it."""
        low, high, harm = 0.0, math.inf, self.start
        inside: frozenset[int] | None = None
        over: frozenset[int] = frozenset()
        shares: list[tuple[float, float]] = []
        for _ in range(_MOST_LEVELS):
            reverted = self.closed(allocate(harm))
            if self._fits(reverted):
                low, inside = harm, reverted
                if reverted == self.closed(allocate(math.inf)):
                    return inside, inside
            else:
                high, over = harm, reverted
            share = self.share(reverted)
            if inside is None and share is not None:
                shares.append((harm, share))
                if _unexplained(shares):
                    break
            if high <= low * _CLOSE or (inside is None and len(reverted) == len(self.order)):
                break
            harm = _next(harm, share, low, high)
        return inside, over

    def _bisect(self, base: frozenset[int]) -> None:
        """Takes back steps from the front of the order, in addition to some."""
        order = [step for step in self.order if step not in base]
        if not order or self._fits(base):
            return
        over, inside = 0, len(order)  # numbers of steps taken back; taking back all of them needs no measurement
        for turn in itertools.count():
            if inside - over < 2:
                break
            middle = self._by_harm(order, over, inside) if turn < _BY_HARM else (over + inside) // 2
            over, inside = (over, middle) if self._fits(base | frozenset(order[:middle])) else (middle, inside)
        least = self.harm(order[inside - 1])
        for wanted in (True, False):  # steps of more harm than the decisive one will rarely fit
            pool = [step for step in order[: inside - 1] if (self.harm(step) <= least) is wanted]
            self._reapply(pool, self._smallest(base | frozenset(order[:inside])))

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


def _unexplained(shares: Sequence[tuple[float, float]]) -> bool:
    """Whether the last composition had at most half of the harm of the one before, and little less was measured."""
    if len(shares) < 2:
        return False
    (before, first), (after, second) = shares[-2:]
    return after <= before / 2 and second > _UNEXPLAINED * first


def _next(harm: float, share: float | None, low: float, high: float) -> float:
    """The next total harm: what was measured grows about with its root, since the error of a drop does.

    Args:
        harm: The last one.
        share: What was measured with it, as a part of the budget; None if that is unknown.
        low: The largest total harm that was inside the budget.
        high: The smallest one that was over it.
    """
    factor = _STRIDE if share is None or share <= 0 else share**-2
    wanted = harm * min(max(factor, 1 / _STRIDE), _STRIDE)
    if low * _CLOSE**0.5 < wanted < high / _CLOSE**0.5:
        return wanted
    if not low:
        return high / _STRIDE
    return low * 2 if math.isinf(high) else math.sqrt(low * high)


class _Spent(Exception):
    """All measurements are used up."""
