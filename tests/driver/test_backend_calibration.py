"""Calibration of the backends that are present: made when missing, kept, made again, and printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from calibration_kit import here
from torch import nn

import recfx.driver.backend_calibration as driver_calibration
from recfx.cli import main
from recfx.cost.calibration import known_calibration, store
from recfx.cost.calibration_modules import subjects
from recfx.driver.backend_calibration import calibrated, described
from recfx.targets import BACKENDS


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three modules and a cache of the test's own."""
    chosen = [s for s in subjects() if s.name in ("call", "fp32 product 16 x 64", "Fourier transform")]
    monkeypatch.setattr("recfx.cost.calibrate.subjects", lambda precisions: chosen)
    monkeypatch.setattr("recfx.cost.calibrate.measure_machine", lambda: here(torch.get_num_threads()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


BOTH = [BACKENDS["native"], BACKENDS["eager"]]


def test_a_missing_calibration_is_made_once() -> None:
    found = calibrated(BOTH)
    assert set(found.backends) == {"native", "eager"}
    assert "no kernel" in found.backends["native"].refused["Fourier transform"]
    assert not found.backends["eager"].refused
    assert len(found.handoffs) == 4
    assert calibrated(BOTH) == found == known_calibration(torch.get_num_threads())


def test_the_harness_of_a_backend_names_its_version_and_refuses_what_the_backend_refuses() -> None:
    from recfx.driver.backend_calibration import BackendHarness

    for backend in BOTH:
        assert BackendHarness(backend).version == backend.version() != ""


def test_only_backends_of_another_version_are_measured_again() -> None:
    first = calibrated(BOTH)
    older = dataclasses.replace(first.backends["native"], version="0.0")
    store(dataclasses.replace(first, backends=first.backends | {"native": older}))
    again = calibrated(BOTH)
    assert again.backends["native"].version == BACKENDS["native"].version()
    assert again.backends["eager"] == first.backends["eager"]
    assert again.machine == first.machine


def test_a_damaged_calibration_is_made_again(tmp_path: Path) -> None:
    calibrated(BOTH)
    (file,) = (tmp_path / "recfx").glob("calibration-*.json")
    file.write_bytes(file.read_bytes()[:-100])
    assert calibrated(BOTH) == known_calibration(torch.get_num_threads())


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_calibration, "BACKENDS", {backend.name: backend for backend in BOTH})
    assert main(["calibrate", "--threads", "1", "--seconds", "30"]) == 0
    text = capsys.readouterr().out
    assert "GFLOP/s" in text
    assert "native to eager, 4 KiB" in text
    assert str(tmp_path) in text
    found = known_calibration(1)
    assert found is not None
    assert text.strip() == described(found)


def test_the_regions_are_those_of_the_default_passes() -> None:
    kernels = BACKENDS["native"].kernels()
    capture = driver_calibration._Capture(kernels)
    first, second = capture(
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)).eval(), (torch.zeros(16, 8),), "fp32"
    )
    assert [str(n.target) for n in first.graph.nodes if n.op == "call_function"] == ["recfx.mlp.default"]
    assert not any("recfx" in str(n.target) for n in second.graph.nodes)
