"""`optimize(evaluate=, budget=)`: the budget is kept, the right groups are taken back, and the report says what happened."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from budget_kit import Clicks, OneTableDecides, OutlierActivations, RareChannel, batches, inputs
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels
from torch import nn

import recfx
from recfx.driver.certificate import Certificate
from recfx.errors import DataError, InputError

BUDGET = recfx.Budget(2e-3)


def within(
    model: nn.Module, evaluate: Any = None, budget: recfx.Budget = BUDGET, **options: Any
) -> recfx.CompiledModel:
    metric = recfx.AUC(batches(model)) if evaluate is None else evaluate
    return recfx.optimize(
        model,
        options.pop("target", "native"),
        example_inputs=inputs(8),
        evaluate=metric,
        budget=budget,
        measure=False,
        **options,
    )


def certificate(fast: recfx.CompiledModel) -> Certificate:
    assert fast.report.budget is not None
    return fast.report.budget


def forms(fast: recfx.CompiledModel) -> dict[str, str]:
    return {choice.group: choice.chosen for choice in certificate(fast).choices}


@needs_kernels
def test_a_model_is_compressed_within_its_budget() -> None:
    fast = within(Clicks())
    found = certificate(fast)
    assert found.met
    assert found.interval is not None
    assert found.interval[0] <= found.drop <= found.interval[1] <= BUDGET.max_drop
    assert found.bytes[1] < 0.5 * found.bytes[0]
    assert found.evaluations <= 12
    assert found.rows == (2048, 2048)
    assert found.trials[-1].fits or any(trial.fits for trial in found.trials)
    fresh = recfx.AUC(batches(Clicks(), seed=9))
    assert fresh(Clicks()) - fresh(fast) < 2 * BUDGET.max_drop
    assert found.summary() in str(fast.report)
    assert f"{found.evaluations} evaluations" in str(found)


@needs_kernels
@pytest.mark.parametrize(("make", "kept"), [(OneTableDecides, {"tables.0.weight": {"unchanged"}})])
def test_a_fragile_group_is_taken_back_and_others_are_compressed(
    make: type[nn.Module], kept: dict[str, set[str]]
) -> None:
    fast = within(make())
    found = certificate(fast)
    assert found.met, str(found)
    chosen = forms(fast)
    assert all(chosen[name] in allowed for name, allowed in kept.items()), chosen
    assert sum(form != "unchanged" for form in chosen.values()) >= 4, chosen
    back = {choice.group: choice for choice in found.choices if choice.reverted}
    assert set(kept) <= set(back)
    assert all(back[name].reason for name in kept)


@needs_kernels
def test_outlier_activations_do_not_keep_a_layer_from_eight_bits() -> None:
    """Without factors, all other channels of the layer's input would round to zero."""
    model = OutlierActivations()
    fast = within(model)
    assert certificate(fast).met, str(certificate(fast))
    assert forms(fast)["second.weight"] not in ("unchanged", "16 bits")
    blind = recfx.optimize(model, "native", example_inputs=inputs(8), precision="int8", measure=False)
    metric = recfx.AUC(batches(model, seed=9))
    assert metric(model) - metric(blind) > 10 * BUDGET.max_drop
    assert metric(model) - metric(fast) < 2 * BUDGET.max_drop


@needs_kernels
def test_a_channel_that_few_rows_need_stays_although_calibration_data_lacks_them() -> None:
    model = RareChannel()
    metric = recfx.AUC(batches(model, 16000))
    usual = [inputs(500, seed, rare=0.0) for seed in range(4)]
    fast = within(model, metric, calibration=usual)
    found = certificate(fast)
    assert found.met, str(found)
    blind = recfx.optimize(
        model,
        "native",
        example_inputs=inputs(8),
        calibration=usual,
        extra_passes="prune-channels{ratio=0.5, importance=taylor, keep_means=true}",
        measure=False,
    )
    assert metric(model) - metric(blind) > BUDGET.max_drop, "without a budget the channel goes"


@needs_kernels
def test_a_budget_of_nothing_gives_the_best_effort() -> None:
    noisy = recfx.AUC(batches(Clicks()))
    fast = within(Clicks(), noisy, recfx.Budget(0.0))
    found = certificate(fast)
    assert not found.met or found.interval == (0.0, 0.0)
    assert "not met" in str(found) or found.interval == (0.0, 0.0)
    torch.testing.assert_close(fast(*inputs(8)), Clicks()(*inputs(8)), rtol=1e-2, atol=1e-2)


@needs_kernels
def test_the_certificate_travels_with_the_model(tmp_path: Path) -> None:
    fast = within(Clicks(), calibration=[inputs(200)])
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    assert loaded.report.budget == fast.report.budget
    torch.testing.assert_close(loaded(*inputs(8)), fast(*inputs(8)))


@needs_kernels
def test_a_refresh_makes_the_same_choices_and_drops_the_certificate() -> None:
    model = Clicks()
    fast = within(model)
    size = fast.report.state_bytes
    fast.refresh()
    assert fast.report.state_bytes == size
    assert fast.report.budget is None
    assert any("optimize again" in notice for notice in fast.report.notices)


@needs_kernels
def test_a_function_has_no_interval_and_the_certificate_says_so() -> None:
    rows = recfx.AUC(batches(Clicks()))
    fast = within(Clicks(), lambda model: rows(model), calibration=[inputs(200)])
    found = certificate(fast)
    assert found.interval is None
    assert found.rows is None
    assert found.met == (found.drop <= BUDGET.max_drop)
    assert "no interval" in str(found)
    assert found.bytes[1] < 0.5 * found.bytes[0]


@needs_kernels
def test_channels_stay_without_calibration_data() -> None:
    rows = recfx.AUC(batches(Clicks()))
    found = certificate(within(Clicks(), lambda model: rows(model)))
    assert {choice.kind for choice in found.choices} == {"table", "layer"}
    assert any("pass calibration=" in notice for notice in found.notices)


def test_a_target_without_kernels_only_removes_channels() -> None:
    found = certificate(within(Clicks(), target="eager"))
    assert {choice.kind for choice in found.choices} == {"channels"}
    assert any("has kernels for fewer bits" in notice for notice in found.notices)


def test_a_model_without_groups_is_returned_with_a_certificate() -> None:
    class Sum(nn.Module):
        def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
            return dense.sum(1)

    found = certificate(within(Sum().eval()))
    assert found.met
    assert found.choices == found.trials == ()
    assert "no group of this model can be compressed" in str(found)


def interrupted(number: int, budget: float, evaluations: int = 12) -> Certificate:
    """The certificate of a run that is interrupted in an evaluation, counted from 1; the first two are of the model itself."""
    rows, calls = recfx.AUC(batches(Clicks())), itertools.count(1)

    def evaluate(model: Any) -> float:
        if next(calls) == number:
            raise KeyboardInterrupt
        return rows(model)

    return certificate(
        within(Clicks(), evaluate, recfx.Budget(budget, evaluations=evaluations), calibration=[inputs(200)])
    )


@needs_kernels
def test_an_interruption_gives_the_best_so_far_with_a_notice() -> None:
    first = interrupted(3, 1e-6)
    assert all(choice.chosen == "unchanged" for choice in first.choices)
    assert "interrupted: the best composition" in str(first)
    later = interrupted(5, 1e-3)
    assert "interrupted: the best composition" in str(later)
    assert later.met
    assert any(choice.chosen != "unchanged" for choice in later.choices)


@needs_kernels
def test_an_interrupted_certificate_claims_nothing() -> None:
    found = interrupted(5, 0.3, evaluations=5)  # the third and the fourth evaluation are of compositions
    assert "interrupted before the certificate" in str(found)
    assert not found.met
    assert found.drop in [pytest.approx(trial.drop) for trial in found.trials if trial.fits]


@needs_kernels
def test_calibration_data_of_another_distribution_is_a_notice() -> None:
    shifted = [(ids, dense + 2) for ids, dense in [inputs(400)]]
    found = certificate(within(Clicks(), calibration=shifted))
    assert any("of another distribution" in notice and "dense[:, 0]" in notice for notice in found.notices)


def broken(name: str) -> nn.Module:
    model = Clicks()
    model.get_parameter(name).data.view(-1)[3] = torch.nan
    return model


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"evaluate": lambda model: 1.0}, "evaluate= was given without budget="),
        ({"budget": BUDGET}, "budget= was given without evaluate="),
        ({"evaluate": lambda model: 1.0, "budget": 1e-3}, "budget= is a float"),
        (
            {"evaluate": lambda model: 1.0, "budget": BUDGET, "precision": "int8"},
            "pipeline= or precision= was given as well",
        ),
        (
            {"evaluate": lambda model: 1.0, "budget": BUDGET, "pipeline": "canonicalize"},
            "pipeline= or precision= was given",
        ),
        ({"evaluate": 0.7, "budget": BUDGET}, "cannot be called"),
        ({"evaluate": lambda model: float("nan"), "budget": BUDGET}, "evaluate returned nan"),
        ({"evaluate": lambda model: 1.0, "budget": BUDGET, "calibration": []}, "the calibration data has no rows"),
        ({"evaluate": lambda model: 1.0, "budget": BUDGET, "example_inputs": None}, "needs example_inputs"),
        ({"evaluate": lambda model: 1.0, "budget": BUDGET, "calibration": [(torch.zeros(4, 3),)]}, "missing argument"),
    ],
)
def test_arguments_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        recfx.optimize(Clicks(), **{"target": "eager", "example_inputs": inputs(8), "measure": False, **options})
    assert caught.value.hint


@pytest.mark.parametrize("name", ["tables.1.weight", "second.bias"])
def test_weights_with_nan_are_an_error(name: str) -> None:
    with pytest.raises(InputError, match="a weight has NaN") as caught:
        within(broken(name), lambda model: 1.0)
    assert caught.value.where == name


def test_labels_of_one_class_are_an_error() -> None:
    rows = [(ids, dense, torch.zeros(len(label))) for ids, dense, label in batches(Clicks())]
    with pytest.raises(DataError, match="labels are 0"):
        recfx.AUC(rows)


def test_a_compiled_model_is_an_error() -> None:
    fast = recfx.optimize(TinyCtr(), "eager", example_inputs=tiny_inputs(4), measure=False)
    with pytest.raises(InputError, match="compiled already"):
        within(fast, lambda model: 1.0)


@needs_kernels
def test_weights_are_shared_and_not_copied() -> None:
    model = Clicks()
    held = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    within(model)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == held
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0)


@needs_kernels
def test_a_budget_that_prefers_bytes_or_time_saves_these() -> None:
    rows = recfx.AUC(batches(Clicks(hidden=128)))
    model = Clicks(hidden=128)
    by_bytes, by_time = (within(model, rows, recfx.Budget(5e-3, prefer=p)) for p in ("bytes", "time"))
    assert by_bytes.report.state_bytes[1] <= by_time.report.state_bytes[1]
    assert certificate(by_bytes).met


def test_a_certificate_is_plain_data() -> None:
    plain = Certificate("AUC", 1e-3, 0.95, 0.8, 0.7, None, False, None, None, 3, (), (), (10, 5))
    assert dataclasses.asdict(plain)["met"] is False
    assert plain.drop == pytest.approx(0.1)
