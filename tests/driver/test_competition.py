"""Backends compete for the parts of a model: predicted and measured plans, and batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from competition_kit import ALWAYS, LATER, NEVER, Toy, agrees, inputs, optimized

from recfx.driver import competition, trials
from recfx.targets.registry import BUILT_IN


def test_the_plan_with_the_lowest_predicted_time_runs(toy: Toy, prices: Any) -> None:
    prices(ALWAYS)
    model, fast = optimized(placement="model")
    assert set(fast.placement.values()) == {"toy"}
    agrees(fast, model)
    assert toy.calls
    names = {plan.name: plan for plan in fast.report.plans}
    assert names["toy"].used == "at all sizes"
    assert not names["toy"].measured
    (region,) = fast.report.regions
    assert region.backend == "toy"
    assert "toy" not in {other.backend for other in region.others}
    assert all(other.predicted is not None or other.reasons for other in region.others)
    text = fast.explain()
    assert "region 0 on toy" in text
    assert "plans:" in text


def test_nothing_is_lowered_that_is_predicted_to_be_slower(toy: Toy, prices: Any) -> None:
    prices(NEVER)
    model, fast = optimized()
    assert toy.lowered == 0
    assert "toy" not in fast.placement.values()
    assert not fast.report.plans
    assert fast.parts.run is fast.parts.placed.run, "a model with one plan calls it directly"
    agrees(fast, model)


def test_backends_of_the_project_do_not_compete_before_they_are_calibrated(
    toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices(ALWAYS)
    monkeypatch.setitem(BUILT_IN, "toy", ("tests", "Toy"))
    for measure in (False, True):
        model, fast = optimized(measure=measure)
        assert toy.lowered == 0
        agrees(fast, model)


def test_stages_that_take_long_leave_less_time_for_plans(
    toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `optimize` of a model whose calls take long ends in bounded time."""
    prices(ALWAYS)
    monkeypatch.setattr(competition, "_UP_TO", 0.0)
    monkeypatch.setattr(competition, "_LEAST", 0.0)
    model, fast = optimized(placement="measure")
    assert toy.lowered == 0
    assert any("the time for placement was up" in plan.note for plan in fast.report.plans)
    agrees(fast, model)


def test_the_outcome_of_measurements_is_kept_for_the_next_optimize(
    toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prices(LATER)
    _, first = optimized(placement="measure")
    assert LATER.recorded, "the model of costs learns the measured times"
    (file,) = (tmp_path / "cache" / "recfx").glob("placement-*.json")

    def unexpected(*arguments: Any) -> Any:
        raise AssertionError("plans are measured again")

    with monkeypatch.context() as patched:
        patched.setattr(trials, "Contest", unexpected)
        model, second = optimized(placement="measure")
    assert second.parts.plans.layout() == first.parts.plans.layout()
    assert second.report.plans == first.report.plans
    agrees(second, model)
    whole = file.read_bytes()
    assert b'"toy"' in whole
    for damage in (b"{}", whole[:-20], whole.replace(b'"toy"', b'"of another machine"'), b"\xff" * 100):
        file.write_bytes(damage)
        model, third = optimized(placement="measure")
        assert third.report.plans
        agrees(third, model)
    toy.refuses = True
    model, fourth = optimized(placement="measure")
    assert "toy" not in fourth.placement.values()
    agrees(fourth, model)


def test_each_range_of_batch_sizes_has_its_plan(toy: Toy, prices: Any) -> None:
    prices(LATER)
    model, fast = optimized()
    plans = fast.parts.plans
    assert len(plans.bounds) == 1
    assert 1 < plans.bounds[0] <= 1024
    agrees(fast, model)
    calls = toy.calls
    fast(*inputs(1))
    fast(*inputs(plans.bounds[0] - 1))
    assert toy.calls == calls
    fast(*inputs(plans.bounds[0]))
    fast(*inputs(5000))
    assert toy.calls == calls + 2
    assert fast(*inputs(0)).shape == (0,)
    assert "below" in str(fast.report.plans[0])


def test_plans_are_measured_in_turns(toy: Toy, prices: Any) -> None:
    prices(ALWAYS)
    model, fast = optimized(measure=True, placement="measure")
    agrees(fast, model)
    plans = {plan.name: plan for plan in fast.report.plans}
    assert plans["toy"].measured
    assert [rows for rows, _ in plans["toy"].measured] == [1, 4, 16, 128, 1024]
    assert all(seconds > 0 for plan in plans.values() for _, seconds in plan.measured)
    assert any(plan.used for plan in plans.values())
    assert all(region.measured for region in fast.report.regions)
