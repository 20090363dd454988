"""`recfx.pareto`: forms are measured, saved and can be made again; bad arguments and interruptions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from budget_kit import Clicks, batches, inputs
from native_kit import needs_kernels

import recfx
from recfx.errors import ArtifactError, InputError, RecfxError

CALIBRATION = [inputs(400)]


def made(folder: Path, evaluate: Any, **options: Any) -> recfx.Front:
    chosen = {"points": 4, "measure": False, "calibration": CALIBRATION, **options}
    return recfx.pareto(Clicks(), "native", example_inputs=inputs(8), evaluate=evaluate, folder=folder, **chosen)


@needs_kernels
def test_forms_go_from_exact_to_small_and_are_saved(tmp_path: Path) -> None:
    rows = recfx.AUC(batches(Clicks()))
    found = made(tmp_path / "front", rows)
    assert len(found.points) == 4
    sizes = [point.bytes for point in found.points]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == found.bytes
    assert sizes[-1] < 0.5 * sizes[0]
    assert found.points[0].choices == {}
    assert abs(found.points[0].drop) < 1e-6
    assert found.rows == 2048
    for point in found.points:
        assert point.interval is not None
        assert point.interval[0] <= point.drop <= point.interval[1]
        assert point.value == pytest.approx(found.before - point.drop)
        loaded = recfx.load(found.path(point))
        assert loaded.report.state_bytes[1] == point.bytes
    assert recfx.Front.read(tmp_path / "front") == found


@needs_kernels
def test_a_form_can_be_made_again_from_its_choices(tmp_path: Path) -> None:
    found = made(tmp_path / "front", recfx.AUC(batches(Clicks())))
    point = found.points[-1]
    again = recfx.optimize(
        Clicks(), "native", example_inputs=inputs(8), pipeline=point.pipeline, calibration=CALIBRATION, measure=False
    )
    saved = recfx.load(found.path(point))
    assert again.report.state_bytes == saved.report.state_bytes
    torch.testing.assert_close(again(*inputs(8)), saved(*inputs(8)))


@needs_kernels
def test_times_are_measured_beside_the_model(tmp_path: Path) -> None:
    found = made(tmp_path / "front", lambda model: float(model(*inputs(50)).mean()), measure=True, points=2)
    assert [time.batch for time in found.points[0].times] == [1, 8]
    assert found.points[0].interval is None
    assert "batch 8" in str(found)


@needs_kernels
def test_an_interruption_keeps_the_forms_that_are_finished(tmp_path: Path) -> None:
    rows, calls = recfx.AUC(batches(Clicks())), itertools.count(1)

    def evaluate(model: Any) -> float:
        if next(calls) == 4:  # the model twice, and the first form
            raise KeyboardInterrupt
        return rows(model)

    found = made(tmp_path / "front", evaluate)
    assert [point.name for point in found.points] == ["form-00"]
    assert "interrupted after 1 form(s)" in str(found)
    assert recfx.Front.read(tmp_path / "front") == found
    recfx.load(found.path(found.points[0]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"points": 1}, "points=1"),
        ({"points": 2.5}, "points=2.5"),
        ({"max_drop": 0.0}, "max_drop=0.0"),
        ({"max_drop": float("nan")}, "max_drop=nan"),
        ({"confidence": 2.0}, "confidence=2.0"),
        ({"calibration": []}, "no rows"),
        ({"evaluate": 3}, "cannot be called"),
        ({"evaluate": lambda model: float("nan")}, "returned nan"),
        ({"model": torch.relu}, "expected an nn.Module"),
    ],
)
def test_bad_arguments(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    chosen = {"model": Clicks(), "evaluate": lambda model: 1.0, **options}
    with pytest.raises(InputError, match=says) as caught:
        recfx.pareto(chosen.pop("model"), "eager", example_inputs=inputs(8), folder=tmp_path / "front", **chosen)
    assert caught.value.hint


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ArtifactError, match="something else"):
        recfx.pareto(Clicks(), "eager", example_inputs=inputs(8), evaluate=lambda model: 1.0, folder=tmp_path)


def test_weights_with_nan_are_an_error(tmp_path: Path) -> None:
    model = Clicks()
    model.first.weight.data[0, 0] = torch.nan
    with pytest.raises(RecfxError, match="NaN"):
        recfx.pareto(model, "eager", example_inputs=inputs(8), evaluate=lambda m: 1.0, folder=tmp_path / "front")
