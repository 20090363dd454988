"""What was chosen for each group, and why steps were taken back: the rows of a certificate's table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from recfx.budget.search import Measured
from recfx.budget.steps import Group, Step, setting_of
from recfx.driver.certificate import UNCHANGED, Choice, Trial


def choices_of(
    groups: Sequence[Group],
    steps: Sequence[Step],
    reverted: Collection[int],
    found: Sequence[Measured],
    trials: Sequence[Trial],
) -> tuple[Choice, ...]:
    """A row for each group that can be compressed, the most harmful one first.

    Args:
        groups: All groups.
        steps: All steps.
        reverted: The numbers of the steps that were taken back.
        found: The compositions that were measured.
        trials: The same, with their drops.
    """
    setting = setting_of(steps, [steps[number] for number in reverted])
    rows = []
    for group in groups:
        own = [(number, step) for number, step in enumerate(steps) if step.group == group]
        if not own:
            continue
        back = [(number, step) for number, step in own if number in reverted]
        rows.append(
            Choice(
                group.name,
                group.kind,
                setting.get(group, UNCHANGED),
                back[0][1].form if back else "",
                _reason(back[0][0], found, trials) if back else "",
                sum(step.harm for _, step in own),
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.harm))


def _reason(step: int, found: Sequence[Measured], trials: Sequence[Trial]) -> str:
    """Why a step was taken back: the composition over the budget that has it and the fewest other steps."""
    over = [
        (len(each.reverted), number) for number, each in enumerate(found) if not each.fits and step not in each.reverted
    ]
    if not over:
        return "not tried: other steps save as much with less harm"
    number = max(over)[1]
    return f"trial {number + 1} has it, and a drop of {trials[number].drop:+.6f}"
