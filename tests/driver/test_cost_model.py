"""The model of costs of placement: one for the process, calibrated by itself when that is needed, fed with measured regions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from calibration_kit import here, some_calibration
from models import TinyCtr, tiny_inputs

import recfx
import recfx.driver.cost_model as hook
from recfx.cost.calibration import BackendPoints, Calibration, Point, store
from recfx.driver.cost_model import cost_model, keep_times, known_rivals
from recfx.errors import MeasureError
from recfx.targets import BACKENDS

RIVALS = [BACKENDS["eager"]]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hook, "_made", {})
    hook._model.cache_clear()
    yield
    hook._model.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The backends of each calibration that was made, without measuring."""
    made: list[list[str]] = []

    def calibrate(backends: Any) -> Calibration:
        made.append([backend.name for backend in backends])
        points = (Point("call", 16, {"elementwise.memory": 1e-6}, 5e-6),)
        held = {backend.name: BackendPoints(backend.version(), points) for backend in backends}
        found = some_calibration(machine=here(torch.get_num_threads()), backends=held)
        store(found)
        return found

    monkeypatch.setattr(hook.backend_calibration, "calibrated", calibrate)
    monkeypatch.delenv("RECFX_CALIBRATE")
    return made


def test_one_model_serves_the_process_and_a_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = cost_model()
    assert cost_model() is model
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cost_model() is not model


def test_a_missing_calibration_is_made_once(measured: list[list[str]]) -> None:
    before = cost_model()
    assert known_rivals(RIVALS, calibrate=False) == []
    assert not measured
    assert known_rivals(RIVALS, calibrate=True) == RIVALS
    assert measured == [["native", "eager"]]
    model = cost_model()
    assert model is not before
    assert model.machine(torch.get_num_threads()) == here(torch.get_num_threads())
    assert known_rivals(RIVALS, calibrate=True) == known_rivals(RIVALS, calibrate=False) == RIVALS
    assert cost_model() is model
    assert len(measured) == 1


def test_the_environment_can_forbid_it(measured: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECFX_CALIBRATE", "0")
    assert known_rivals(RIVALS, calibrate=True) == []
    assert not measured


def test_a_calibration_that_cannot_be_stored_is_used_all_the_same(measured: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "recfx").write_text("a file in place of the folder")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert known_rivals(RIVALS, calibrate=True) == RIVALS
    assert cost_model().machine(torch.get_num_threads()) == here(torch.get_num_threads())
    assert known_rivals(RIVALS, calibrate=True) == RIVALS
    assert len(measured) == 1


def test_backends_on_a_machine_that_cannot_be_calibrated_do_not_compete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECFX_CALIBRATE")
    tried: list[int] = []

    def fail(backends: Any) -> Calibration:
        tried.append(1)
        raise MeasureError("nothing could be measured")

    monkeypatch.setattr(hook.backend_calibration, "calibrated", fail)
    with pytest.warns(RuntimeWarning, match="could not be calibrated: nothing could be measured"):
        assert known_rivals(RIVALS, calibrate=True) == []
    assert known_rivals(RIVALS, calibrate=True) == []
    assert len(tried) == 1
    assert cost_model().launch("native", 1).seconds > 0


def test_measured_regions_are_kept_and_predict_equal_models() -> None:
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False)
    placed = fast.parts.placed
    keep_times(placed, 6, [0.5] * len(placed.regions))
    hook._model.cache_clear()
    other = recfx.optimize(TinyCtr(1), example_inputs=tiny_inputs(6), measure=False).parts.placed
    threads = torch.get_num_threads()
    for backend, region in zip(other.backends, other.split.regions, strict=True):
        model = cost_model()
        total = model.unit(backend, region, 6, threads) + model.launch(backend, threads)
        assert total.seconds == pytest.approx(0.5, rel=0.01)


def test_optimize_keeps_nothing_without_a_competition(tmp_path: Path) -> None:
    recfx.optimize(TinyCtr(), target=["native", "eager"], example_inputs=tiny_inputs(6))
    assert not list(tmp_path.rglob("units-*"))
