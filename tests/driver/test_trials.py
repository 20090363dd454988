"""Plans that pass the comparison on few inputs and are wrong on others, and regions that several plans have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from competition_kit import ALWAYS, Toy, agrees, optimized

from recfx.driver import trials
from recfx.driver.lowering import Lowering
from recfx.driver.plan_times import Choice
from recfx.ir import Exactness
from recfx.ir.numeric import verify_numeric
from recfx.ir.region import Region
from recfx.targets import BACKENDS, Lowered
from recfx.testing import GraphBuilder


class WrongForMany(Toy):
    """A backend whose answers are wrong for more than two rows."""

    def lower(self, region: Region) -> Lowered:
        lowered = super().lower(region)

        def run(*values: Any) -> tuple[Any, ...]:
            found = lowered.run(*values)
            return tuple(2 * v + 1 if v.is_floating_point() and v.shape and v.shape[0] > 2 else v for v in found)

        return Lowered(self.name, region, run, lowered.left, lowered.operators)


class LastPlan:
    """A contest that the last plan wins."""

    def __init__(self, plans: Sequence[Any], *arguments: Any, **more: Any) -> None:
        self.plans, self.failed = len(plans), dict[int, str]()

    def choose(self, sizes: Sequence[int]) -> Choice:
        return Choice((), (self.plans - 1,), {index: {sizes[0]: 1.0} for index in range(self.plans)})


@pytest.mark.parametrize("placement", ["measure", "model"])
def test_a_chosen_plan_is_compared_on_all_inputs(prices: Any, placement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "toy", WrongForMany())
    if placement == "measure":
        monkeypatch.setattr(trials, "Contest", LastPlan)
    prices(ALWAYS)
    model, fast = optimized(placement=placement)
    agrees(fast, model)
    assert "toy" not in fast.placement.values()
    assert any("toy backend does not compute the same as the model" in notice for notice in fast.report.notices)
    wrong = [plan for plan in fast.report.plans if "does not compute the same" in plan.note]
    assert wrong
    assert not any(plan.used for plan in wrong)


def test_regions_that_several_plans_have_are_lowered_once() -> None:
    builder = GraphBuilder({"x": ("batch", 4)})
    value = builder.inputs["x"]
    names = []
    for target in (torch.ops.aten.tanh.default, torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default):
        value = builder.call(target, value)
        names.append(value.name)
    program = builder.build(value)
    runs = verify_numeric(program, program, Exactness.EXACT)
    toy = Toy()
    lowering = Lowering(program, [BACKENDS["eager"], toy], runs, Exactness.EXACT)
    first, _ = lowering.place({names[0]: "toy", names[2]: "toy"})
    assert toy.lowered == 2
    second, _ = lowering.place({names[0]: "toy"}, runs=runs[:1])
    assert toy.lowered == 2
    assert second.regions[0] is first.regions[0]
    lowering.place({names[1]: "toy"})
    assert toy.lowered == 3
    assert lowering.check(second) == ()
