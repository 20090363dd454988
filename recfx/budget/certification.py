"""The certificate of a composition, and of a safer one where the first does not hold.

The rows for the certificate are used for two claims at most, and both compositions are known before these rows are looked at: the second
one follows from what was measured on the rows for choices. They share the probability of a false claim, see `Judge.confidence`. If the
first certificate contradicts the rows for choices, these rows cannot show what is safe, and the second composition takes no step at all:
it computes what the user's model computes, so choosing it after the fact makes no claim false.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from recfx.budget.compositions import Compositions
from recfx.budget.interval import Drop
from recfx.budget.judge import Judge
from recfx.compiled import CompiledModel
from recfx.driver.parts import Parts


@dataclasses.dataclass(frozen=True)
class Final:
    """A composition, built and measured on the rows for the certificate.

    Attributes:
        parts: The compiled model.
        reverted: The steps that were not taken.
        before: The metric of the user's model.
        after: The metric of the compiled model.
        drop: The drop, with its interval.
        met: Whether the budget is kept.
        complete: Whether it was measured to the end; otherwise the numbers are those on the rows for choices.
        notices: What the reader should know.
    """

    parts: Parts
    reverted: frozenset[int]
    before: float
    after: float
    drop: Drop
    met: bool
    complete: bool
    notices: tuple[str, ...] = ()


class Certifier:
    """Builds and certifies compositions.

    Args:
        judge: Measures them.
        compositions: Builds them.
        drops: Steps that were not taken -> the drop on the rows for choices, of the compositions that were measured.
    """

    def __init__(self, judge: Judge, compositions: Compositions, drops: Mapping[frozenset[int], Drop]) -> None:
        self._judge, self._compositions, self._drops = judge, compositions, drops

    def certified(self, reverted: frozenset[int]) -> Final:
        """A composition with its certificate; a safer one if that does not hold and evaluations are left."""
        first = self._final(reverted, 0)
        if first.met or not first.complete or not self._judge.may_certify:
            return first
        safer = self._safer(first)
        if safer is None:
            return first
        try:
            second = self._final(safer, 1)
            interrupted = not second.complete
        except KeyboardInterrupt:
            interrupted = True
        if interrupted:
            return dataclasses.replace(first, notices=("interrupted before a safer composition was certified",))
        said = f"the certificate of another composition did not hold ({_said(first.drop)}): this one does less"
        return dataclasses.replace(second, notices=(said,))

    def _safer(self, failed: Final) -> frozenset[int] | None:
        """The composition that saves most of those whose certificate will almost surely hold; no step at all if the rows for choices do not
        show this; None if the failed one took none."""
        nothing = frozenset(range(len(self._compositions.steps)))
        if failed.reverted == nothing:
            return None
        chosen = self._drops.get(failed.reverted)
        if chosen is not None and _contradicts(failed.drop, chosen):
            return nothing
        estimate = math.inf if chosen is None else chosen.estimate
        safe = [
            reverted
            for reverted, drop in self._drops.items()
            if reverted != failed.reverted and drop.estimate < estimate and self._judge.is_safe(drop)
        ]
        return max(safe, key=self._compositions.worth_of, default=nothing)

    def _final(self, reverted: frozenset[int], attempt: int) -> Final:
        judge, parts = self._judge, self._compositions.built(self._compositions.setting(reverted))
        try:
            before, after, drop = judge.certify(CompiledModel(_compiled(parts)), judge.confidence(attempt))
        except KeyboardInterrupt:
            estimate = self._drops[reverted].estimate if reverted in self._drops else math.nan
            drop = Drop(estimate, None, judge.confidence(attempt))
            said = "interrupted before the certificate: the drop is that on the rows for choices"
            return Final(parts, reverted, judge.before, judge.before - drop.estimate, drop, False, False, (said,))
        return Final(parts, reverted, before, after, drop, drop.within(judge.budget.max_drop), True)


def _contradicts(certified: Drop, chosen: Drop) -> bool:
    """Whether a drop is above what the rows for choices allow."""
    if certified.interval is None or chosen.interval is None:
        return False
    return certified.interval[0] > chosen.interval[1]


def _said(drop: Drop) -> str:
    interval = "" if drop.interval is None else f", interval up to {drop.interval[1]:+.6f}"
    return f"drop {drop.estimate:+.6f}{interval}"


def _compiled(parts: Parts) -> Parts:
    """The parts with their compiled program as the one that runs, also where it measured slower than the user's model."""
    one_row = None if parts.one_row is None else _compiled(parts.one_row)
    return Parts(parts.placed, parts.report, None, parts.recipe, one_row, parts.plans)
