"""Backends compete for the parts of a model: predicted and measured plans, failures, pins, batch sizes, saving."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from native_kit import needs_kernels
from placement_kit import TableCosts
from torch import Tensor, nn

import recfx
from recfx.cost.estimate import Estimate
from recfx.driver import competition, plan_times
from recfx.errors import IdError
from recfx.ir.numeric import Exactness
from recfx.ir.region import Region
from recfx.targets import BACKENDS, EagerBackend, Lowered
from recfx.targets.registry import BUILT_IN

BATCHES = (1, 2, 7, 64, 1500)


class Toy(EagerBackend):
    """A backend like torch that counts its calls and can be broken."""

    name: ClassVar[str] = "toy"
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def __init__(self) -> None:
        self.calls = 0
        self.lowered = 0
        self.error = 0.0
        self.fails_at: int | None = None
        self.missing: str | None = None
        self.refuses = False

    def unavailable(self) -> str | None:
        return self.missing

    def lower(self, region: Region) -> Lowered:
        if self.refuses:
            raise ZeroDivisionError("engine")
        lowered = super().lower(region)
        self.lowered += 1

        def run(*values: Any) -> tuple[Any, ...]:
            self.calls += 1
            if self.fails_at is not None and self.calls >= self.fails_at:
                raise RuntimeError("the engine lost its memory")
            return tuple(v + self.error if v.is_floating_point() else v for v in lowered.run(*values))

        return Lowered(self.name, region, run, lowered.left, lowered.operators)


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.tower = nn.Sequential(nn.Linear(6, 8), nn.Softmax(1), nn.Linear(8, 8))
        self.top = nn.Linear(16, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return self.top(torch.cat([self.tower(dense), self.table(ids)], 1)).squeeze(1)


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 6, generator=generator), torch.randint(0, 50, (batch,), generator=generator)


class Prices(TableCosts):
    """Seconds of one row of every unit, and of a call, by backend."""

    def __init__(self, row: dict[str, float], call: dict[str, float] | None = None) -> None:
        super().__init__({}, call=call)
        self.row = row

    def unit(self, backend: str, region: Region, rows: int, threads: int) -> Estimate:
        return Estimate.exactly(rows * self.row.get(backend, 1e-6))


#: The toy is predicted to be the fastest for every number of rows, or from some hundred rows on, or never.
ALWAYS = Prices({"toy": 1e-8})
LATER = Prices({"toy": 1e-8}, {"toy": 2e-4})
NEVER = Prices({"toy": 1e-4})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    backend = Toy()
    monkeypatch.setitem(BACKENDS, "toy", backend)
    return backend


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(plan_times, "_SECONDS", 0.02)
    monkeypatch.setattr(plan_times, "_BETWEEN_SECONDS", 0.01)

    def use(costs: TableCosts | None) -> None:
        monkeypatch.setattr(competition, "cost_model", lambda: costs or NEVER)

    return use


def optimized(**more: Any) -> tuple[Ranker, recfx.CompiledModel]:
    model = Ranker().eval()
    return model, recfx.optimize(model, example_inputs=inputs(4), **{"measure": False, **more})


def agrees(fast: recfx.CompiledModel, model: Ranker) -> None:
    for batch in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs(batch)), model(*inputs(batch)), rtol=1e-5, atol=1e-6)


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
        patched.setattr(competition, "Contest", unexpected)
        model, second = optimized(placement="measure")
    assert second.parts.plans.layout() == first.parts.plans.layout()
    assert second.report.plans == first.report.plans
    agrees(second, model)
    for damage in (b"{}", file.read_bytes()[:-20]):
        file.write_bytes(damage)
        model, third = optimized(placement="measure")
        assert third.report.plans
        agrees(third, model)
    toy.refuses = True
    model, fourth = optimized(placement="measure")
    assert "toy" not in fourth.placement.values()
    agrees(fourth, model)


def test_a_cache_folder_that_cannot_be_written_costs_only_the_measurement(
    toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prices(ALWAYS)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, fast = optimized(measure=True)
    agrees(fast, model)


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


@pytest.mark.parametrize("placement", ["measure", "model"])
def test_a_backend_with_wrong_answers_is_dropped_with_a_note(toy: Toy, prices: Any, placement: str) -> None:
    prices(ALWAYS)
    toy.error = 1.0
    model, fast = optimized(placement=placement)
    assert "toy" not in fast.placement.values()
    agrees(fast, model)
    assert any("toy backend does not compute the same as the model" in notice for notice in fast.report.notices)
    assert any("does not compute the same" in plan.note for plan in fast.report.plans)


@pytest.mark.parametrize("placement", ["measure", "model"])
def test_a_backend_that_cannot_lower_is_dropped_with_a_note(toy: Toy, prices: Any, placement: str) -> None:
    prices(ALWAYS)
    toy.refuses = True
    model, fast = optimized(placement=placement)
    assert "toy" not in fast.placement.values()
    agrees(fast, model)
    assert any("ZeroDivisionError: engine" in notice for notice in fast.report.notices)


def test_a_backend_whose_dry_run_fails_is_left_out(toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prices(ALWAYS)

    def broken(program: Any) -> Any:
        raise KeyError("registry")

    monkeypatch.setattr(toy, "supports", broken)
    model, fast = optimized()
    assert any("toy backend fails on this model" in notice for notice in fast.report.notices)
    agrees(fast, model)


@pytest.mark.parametrize("calls", [1, 1000])
def test_a_backend_that_fails_at_a_call_falls_back_and_says_so_once(toy: Toy, prices: Any, calls: int) -> None:
    prices(ALWAYS)
    model, fast = optimized()
    toy.calls = 0
    toy.fails_at = calls
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(calls + 3):
            found = fast(*inputs(5))
    with torch.no_grad():
        torch.testing.assert_close(found, model(*inputs(5)), rtol=1e-5, atol=1e-6)
    said = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert len(said) == 1
    assert "the plan on toy failed at a call" in said[0]
    assert "the engine lost its memory" in said[0]
    assert toy.calls == calls
    assert "failed at a call" in repr(fast.placement)


def test_a_backend_that_fails_while_it_is_measured_is_noted(toy: Toy, prices: Any) -> None:
    prices(ALWAYS)
    toy.fails_at = 12
    model, fast = optimized(verify="off", measure=True)
    assert "toy" not in fast.placement.values()
    assert any("the engine lost its memory" in plan.note for plan in fast.report.plans)
    agrees(fast, model)


@pytest.mark.parametrize("target", ["cpu", "toy"])
def test_bad_ids_are_refused_on_every_plan(toy: Toy, prices: Any, target: str) -> None:
    prices(ALWAYS)
    _, fast = optimized(target=target)
    assert "toy" in fast.placement.values()
    for bad in (50, -1):
        dense, ids = inputs(4)
        ids[2] = bad
        with pytest.raises(IdError, match="table"):
            fast(dense, ids)
    agrees_after = fast(*inputs(4))
    assert agrees_after.shape == (4,)
    assert not fast.parts.plans.failures, "bad inputs do not count as a failure of a plan"


def test_a_pinned_backend_has_a_fallback_as_well(toy: Toy, prices: Any) -> None:
    prices(None)
    model, fast = optimized(target="toy")
    assert set(fast.placement.values()) == {"toy"}
    toy.fails_at = 1
    with pytest.warns(RuntimeWarning, match="the plan on toy failed at a call"):
        agrees(fast, model)


def test_pins_by_module_operator_and_region(toy: Toy, prices: Any) -> None:
    prices(NEVER)
    model, fast = optimized(placement={"tower": "toy"})
    on_toy = [r for r in fast.report.regions if r.backend == "toy"]
    assert on_toy
    assert {module.partition(".")[0] for region in on_toy for module in region.modules} == {"tower"}
    assert any("table" in r.modules or "top" in r.modules for r in fast.report.regions if r.backend != "toy")
    agrees(fast, model)
    _, again = optimized(target="eager", placement={"region 0": "toy"})
    assert set(again.placement.values()) == {"toy"}
    name = next(n.name for n in again.program.graph.nodes if "softmax" in str(n.target))
    _, third = optimized(target="eager", placement={name: "toy", "region 0": "eager", "tower": "eager"})
    assert [r.operators for r in third.report.regions if r.backend == "toy"] == [(("aten.softmax.int", 1),)]


def test_the_longest_module_path_of_the_pins_counts(toy: Toy, prices: Any) -> None:
    prices(None)
    _, fast = optimized(target="eager", placement={"tower.2": "eager", "tower": "toy"})
    on_toy = {module for r in fast.report.regions if r.backend == "toy" for module in r.modules}
    assert on_toy == {"tower.0", "tower.1"}


def test_pins_that_a_backend_refuses_are_noted(toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recfx.targets import Verdict

    prices(None)
    plain = toy.supports

    def supports(program: Any) -> Any:
        return {n: Verdict(False, "no softmax") if "softmax" in str(n.target) else v for n, v in plain(program).items()}

    monkeypatch.setattr(toy, "supports", supports)
    model, fast = optimized(target="eager", placement={"tower": "toy"})
    assert any("refuses it" in n and "no softmax" in n for n in fast.report.notices)
    agrees(fast, model)


@pytest.mark.parametrize(
    ("placement", "error", "message"),
    [
        ("fastest", recfx.InputError, "placement='fastest' is unknown"),
        ({"towr": "toy"}, recfx.InputError, "'towr', which is not a module.*\n.*tower"),
        ({"region 99": "toy"}, recfx.InputError, "region 99"),
        ({"tower": "abacus"}, recfx.TargetError, "unknown backend 'abacus'"),
        ({"": "toy"}, recfx.InputError, "not a module"),
    ],
)
def test_unknown_placements(toy: Toy, prices: Any, placement: Any, error: Any, message: str) -> None:
    prices(None)
    with pytest.raises(error, match=message):
        optimized(placement=placement)


def test_a_pin_to_a_missing_backend_names_the_next_step(toy: Toy, prices: Any) -> None:
    prices(None)
    toy.missing = "pip install 'recfx[toy]'"
    with pytest.raises(recfx.TargetError, match=r"recfx\[toy\]"):
        optimized(placement={"tower": "toy"})
    with pytest.raises(recfx.TargetError, match=r"recfx\[toy\]"):
        optimized(target="toy")
    optimized()


def test_a_list_of_targets_is_an_order_unless_a_placement_is_asked_for(toy: Toy, prices: Any) -> None:
    prices(NEVER)
    _, fast = optimized(target=["toy", "eager"])
    assert set(fast.placement.values()) == {"toy"}
    prices(ALWAYS)
    _, fast = optimized(target=["eager", "toy"])
    assert set(fast.placement.values()) == {"eager"}
    _, fast = optimized(target=["eager", "toy"], placement="model")
    assert set(fast.placement.values()) == {"toy"}


@needs_kernels
def test_a_backend_that_is_slow_to_lower_competes_only_where_torch_runs_much_and_the_target_names_it(
    toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices(Prices({"toy": 1e-8, "native": 1e-7, "eager": 1e-6}))
    monkeypatch.setattr(toy, "slow_to_lower", lambda region: True)
    for target, expected in (("cpu", False), (["cpu", "toy"], False), (["eager", "toy"], True)):
        _, fast = optimized(target=target, placement="model")
        assert ("toy" in fast.placement.values()) is expected, target


def test_all_plans_are_saved_loaded_copied_and_refreshed(toy: Toy, prices: Any, tmp_path: Path) -> None:
    prices(LATER)
    model, fast = optimized()
    fast.save(tmp_path / "model")
    for again in (recfx.load(tmp_path / "model"), copy.deepcopy(fast)):
        assert again.parts.plans.layout() == fast.parts.plans.layout()
        assert again.report == fast.report
        agrees(again, model)
    with torch.no_grad():
        model.top.weight.mul_(2.0)
    fast.refresh()
    agrees(fast, model)
    assert fast.parts.plans.layout().bounds
    again.refresh(model, example_inputs=inputs(4))
    assert again.parts.plans.layout() == fast.parts.plans.layout()
    agrees(again, model)


@pytest.mark.parametrize("costs", [ALWAYS, LATER])
def test_a_saved_model_whose_backend_is_missing_falls_back_with_a_notice(
    toy: Toy, prices: Any, tmp_path: Path, costs: Prices
) -> None:
    prices(costs)
    model, fast = optimized()
    fast.save(tmp_path / "model")
    toy.missing = "pip install 'recfx[toy]'"
    with pytest.warns(UserWarning, match=r"the toy backend cannot run here.*recfx\[toy\]"):
        again = recfx.load(tmp_path / "model")
    assert "toy" not in again.placement.values()
    assert any("the toy backend cannot run here" in notice for notice in again.report.notices)
    calls = toy.calls
    agrees(again, model)
    assert toy.calls == calls


def test_numbers_of_plans_that_do_not_fit_are_refused(toy: Toy, prices: Any, tmp_path: Path) -> None:
    from artifact_kit import rewrite_manifest

    prices(LATER)
    for change in ({"uses": [0, 7]}, {"uses": [0]}, {"bounds": [-3]}, {"shown": 9}, {"shown": -1}, {"others": []}):
        optimized()[1].save(tmp_path / "model")
        rewrite_manifest(
            tmp_path / "model",
            lambda m, change=change: {**m, "plans": {k: {**v, **change} for k, v in m["plans"].items()}},
        )
        with pytest.raises(recfx.ArtifactError):
            recfx.load(tmp_path / "model")
