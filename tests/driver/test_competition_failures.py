"""Backends that compete for the parts of a model and fail: at optimize, while they are measured, and at a call."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from competition_kit import ALWAYS, Toy, agrees, inputs, optimized

from recfx.errors import IdError


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
    toy.fails_at = 3
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
