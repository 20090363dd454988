"""The regret of placement: which plans are tried, and that a plan that is not the fastest has a regret."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import recfx
from benchmarks.__main__ import main
from benchmarks.case import Case
from benchmarks.placement_regret import ALL_PLANS, Regret, Sample, _Field, measure, report

_FEW = Sample(predicted=6, drawn=3, seconds=0.05)


class _Layers(nn.Module):
    """Linear layers with activations.

    Args:
        layers: Their number.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))

    def forward(self, dense: Tensor) -> Tensor:
        for layer in self.layers:
            dense = torch.cumsum(torch.relu(layer(dense)), 1)
        return dense


def _inputs(model: nn.Module, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed)),)


def _case(layers: int) -> Case:
    return Case("layers", "", lambda: _Layers(layers), 0.0, _inputs)


def test_all_plans_of_a_small_program_are_tried() -> None:
    (found,) = measure([_case(1)], [4], _FEW)
    assert found.every
    assert found.plans == 2**found.units <= ALL_PLANS
    assert found.regret >= 0
    assert found.over_single > 0


def test_a_sample_of_the_plans_of_a_large_program_is_tried() -> None:
    (found,) = measure([_case(8)], [4], _FEW)
    assert not found.every
    assert 2 <= found.plans <= 6 + 3 + 4  # and the plans of one backend


def test_a_plan_that_is_not_the_fastest_has_a_regret() -> None:
    model = _Layers(3).eval()
    parts = recfx.optimize(model, target="eager", example_inputs=_inputs(model, 16, None, 0), measure=False).parts
    found = _Field("layers", parts, _FEW).regret(16)
    assert found.chosen == "eager"
    assert found.best == "native"
    assert found.regret > 0.1
    assert found.over_single == pytest.approx(1 + found.regret, rel=0.2)


def test_a_plan_that_equals_the_chosen_one_is_not_measured_beside_it() -> None:
    parts = recfx.optimize(_Layers(1).eval(), target="native", example_inputs=_inputs(_Layers(1), 16, None, 0)).parts
    found = _Field("layers", parts, _FEW).regret(16)
    assert found.chosen == found.single == "native"
    assert found.over_single == 1
    assert found.regret >= 0


def test_the_report_ends_with_the_median_and_the_largest_regret() -> None:
    found = [
        Regret("a", rows, 3, 8, True, "native", "native", regret, "native", 1.0)
        for rows, regret in ((1, 0.0), (16, 0.02), (64, 0.3))
    ]
    text = report(found)
    assert "8 (all)" in text
    assert text.endswith("Regret: median 2.0%, largest 30.0%.")


@pytest.mark.slow
def test_the_command_measures_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["placement", "ccpm", "--batches", "4", "--predicted", "2", "--drawn", "1", "--seconds", "0.05"]) == 0
    assert "ccpm" in capsys.readouterr().out
