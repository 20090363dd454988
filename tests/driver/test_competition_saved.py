"""Models with several plans are saved, loaded, copied and refreshed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from competition_kit import ALWAYS, LATER, Prices, Toy, agrees, inputs, optimized

import recfx


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
