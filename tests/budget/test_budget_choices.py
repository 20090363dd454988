"""The rows of a certificate's table."""

from __future__ import annotations

from recfx.budget.choices import choices_of
from recfx.budget.search import Measured
from recfx.budget.steps import FORMS, Group, Step
from recfx.driver.certificate import Choice, Trial

TABLE, LAYER = Group("a", "table", FORMS["table"][:2]), Group("b", "layer", ("8 bits",))
NONE = Group("c", "channels", ())
STEPS = [Step(TABLE, "8 bits", 0.1, 0.2), Step(TABLE, "4 bits", 0.3, 0.1), Step(LAYER, "8 bits", 0.5, 0.4)]


def trial(drop: float) -> Trial:
    return Trial(0, drop, None, False, 0.0)


def test_the_reason_is_the_composition_over_the_budget_with_the_fewest_steps() -> None:
    found = [Measured(frozenset(), False), Measured(frozenset({2}), False), Measured(frozenset({1, 2}), True)]
    trials = [trial(0.3), trial(0.2), trial(0.0)]
    assert choices_of([TABLE, LAYER, NONE], STEPS, {1, 2}, found, trials) == (
        Choice("b", "layer", "unchanged", "8 bits", "trial 1 has it, and a drop of +0.300000", 0.5),
        Choice("a", "table", "8 bits", "4 bits", "trial 2 has it, and a drop of +0.200000", 0.4),
    )


def test_a_step_that_no_trial_had() -> None:
    (row,) = choices_of([LAYER], STEPS[2:], {0}, [], [])
    assert row.reason == "not tried: other steps save as much with less harm"


def test_nothing_taken_back() -> None:
    rows = choices_of([TABLE, LAYER], STEPS, (), [], [])
    assert [(row.chosen, row.reverted, row.reason) for row in rows] == [("8 bits", "", ""), ("4 bits", "", "")]
