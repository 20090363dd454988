"""`Certificate`: what a model compiled under an accuracy budget lost, on which data that was measured, and how the choices were made.

It is part of the report, so that it travels with a saved model.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from recfx.ir.printer import human_bytes

#: The most groups and trials that the text lists.
_LISTED = 40

#: What is chosen for a group that stays as it was.
UNCHANGED = "unchanged"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for one group: a table, a dense layer, or the channels of a layer.

    Attributes:
        group: The name of its weight, or of its group of channels.
        kind: "table", "layer" or "channels".
        chosen: What it became: "4 bits", "25 % fewer channels", "unchanged".
        reverted: What was tried and taken back; empty if nothing was.
        reason: Why it was taken back; empty if nothing was.
        harm: The mean square change of the outputs when only this group is compressed as far as possible, divided by the variance of the
            outputs, on the rows that rank the groups.
    """

    group: str
    kind: str
    chosen: str
    reverted: str = ""
    reason: str = ""
    harm: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One composition that was measured on the part of the data on which choices are made.

    Attributes:
        reverted: The number of steps taken back.
        drop: The drop of the metric.
        bound: The drop that the true drop exceeds rarely; None without an interval.
        fits: Whether the composition counted as inside the budget.
        saved: The estimated share of bytes plus the share of arithmetic that it saves, from 0 to 2.
        harm: The sum of the estimated harms of its steps.
    """

    reverted: int
    drop: float
    bound: float | None
    fits: bool
    saved: float
    harm: float = 0.0


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The accuracy of a compressed model, measured on rows that no choice saw.

    Attributes:
        metric: The name of the metric.
        max_drop: The budget.
        confidence: The confidence of the interval. It is higher than the budget's, which holds for two certificates together.
        before: The metric of the user's model.
        after: The metric of the compressed model, on the same rows.
        interval: The ends of the paired bootstrap interval of the drop; None if `evaluate` gives one number per model.
        met: Whether the whole interval is inside the budget; without an interval, whether the drop is.
        rows: Rows of the part for choices, and of the part for the certificate; None if unknown.
        data: The digest of the certificate's rows and labels; None if unknown.
        evaluations: How often a model was measured on a part of the data, all counted.
        choices: What was chosen for each group.
        trials: The compositions that were measured, in order.
        bytes: Bytes of parameters and buffers before and after.
        notices: What the reader should know about the measurement.
    """

    metric: str
    max_drop: float
    confidence: float
    before: float
    after: float
    interval: tuple[float, float] | None
    met: bool
    rows: tuple[int, int] | None
    data: str | None
    evaluations: int
    choices: tuple[Choice, ...]
    trials: tuple[Trial, ...]
    bytes: tuple[int, int]
    notices: tuple[str, ...] = ()

    @property
    def drop(self) -> float:
        """How much lower the metric is than that of the user's model."""
        return self.before - self.after

    def summary(self) -> str:
        """The certificate in one sentence."""
        said = "met" if self.met else "not met"
        if self.interval is None:
            interval = "no interval"
        else:
            interval = f"{self.confidence:.4g} interval {self.interval[0]:+.6f} to {self.interval[1]:+.6f}"
        return f"budget of {self.max_drop:g} {self.metric} {said}: drop {self.drop:+.6f} ({interval})"

    def __str__(self) -> str:
        before, after = self.bytes
        lines = [
            self.summary(),
            f"  {self.metric} {self.before:.6f} → {self.after:.6f}, state {human_bytes(before)} → {human_bytes(after)} "
            f"({after / max(before, 1):.3f} ×), {self.evaluations} evaluations",
        ]
        if self.rows is not None:
            lines.append(
                f"  choices on {self.rows[0]:,} rows, certificate on {self.rows[1]:,} others (data {self.data})"
            )
        lines += self._choice_lines() + self._trial_lines()
        lines += [f"  note: {notice}" for notice in self.notices]
        return "\n".join(lines)

    def _choice_lines(self) -> list[str]:
        if not self.choices:
            return ["  no group of this model can be compressed"]
        width = max(len(choice.group) for choice in self.choices)
        form = max(len("chosen"), *(len(choice.chosen) for choice in self.choices))
        lines = [*self._counts(), f"  {'group':<{width}}  {'kind':<8}  {'chosen':<{form}}  {'harm':>8}  reverted"]
        for choice in sorted(self.choices, key=lambda choice: choice.chosen == UNCHANGED)[:_LISTED]:
            back = f"{choice.reverted}: {choice.reason}" if choice.reverted else ""
            lines.append(
                f"  {choice.group:<{width}}  {choice.kind:<8}  {choice.chosen:<{form}}  {choice.harm:>8.1e}  {back}".rstrip()
            )
        return lines + _more(len(self.choices))

    def _counts(self) -> list[str]:
        """How many groups of each kind took each form, all of them."""
        kinds: dict[str, Counter[str]] = {}
        for choice in self.choices:
            kinds.setdefault(choice.kind, Counter())[choice.chosen] += 1
        return [
            f"  {kind}: " + ", ".join(f"{count} × {form}" for form, count in forms.most_common())
            for kind, forms in kinds.items()
        ]

    def _trial_lines(self) -> list[str]:
        lines = []
        for number, trial in enumerate(self.trials[:_LISTED], 1):
            bound = "" if trial.bound is None else f", at most about {trial.bound:+.6f}"
            fits = "inside" if trial.fits else "over"
            steps = "1 step" if trial.reverted == 1 else f"{trial.reverted} steps"
            lines.append(f"  trial {number}: {steps} reverted, drop {trial.drop:+.6f}{bound}: {fits}")
        return lines + _more(len(self.trials))


def _more(count: int) -> list[str]:
    return [f"  and {count - _LISTED} more"] if count > _LISTED else []
