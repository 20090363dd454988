"""The demo, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from native_kit import needs_kernels

import recfx
from recfx.cli import command_parser, main
from recfx.demo import BATCHES, DemoResult, run_demo
from recfx.demo_tasks import CTR_MODELS, task_for
from recfx.errors import InputError
from recfx.passes import EXACT_PIPELINE
from recfx.zoo import MODELS


def check(result: DemoResult) -> None:
    assert result.before.auc > 0.55
    assert set(result.latency) == set(BATCHES)
    assert all(t.timings["compiled"].median > 0 for t in result.latency.values())
    assert result.compiled.report.passes


def test_on_generated_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run_demo(seconds=600, rows=20_000, timing_seconds=0.2, save=tmp_path / "model", progress=False)
    check(result)
    printed = capsys.readouterr().out
    for expected in ("AUC (at best", "log loss", "batch 1, p50", "batch 1024, p99", "bytes", "rewrites of each pass"):
        assert expected in printed
    assert recfx.load(tmp_path / "model").report.model == "DeepFM"
    serve, ask, load = printed.splitlines()[-3:]
    assert serve.split() == ["recfx", "serve", str(tmp_path / "model")]
    assert ask.split() == ["curl", "http://127.0.0.1:8000/v2/models/model"]
    assert load.split()[:4] == ["recfx", "bench", "serve", "http://127.0.0.1:8000"]
    for command in (serve, load):
        assert callable(command_parser().parse_args(command.split()[1:]).run)


def test_four_epochs_and_tables_with_whole_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The validation AUC rises in every epoch, so the number of epochs alone ends the training."""
    result = run_demo("dlrm", seconds=600, rows=6_000, timing_seconds=0.2, progress=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dlrm on synthetic: 4,800 rows to train on, 600 to test on"
    assert lines[1].startswith("trained 20 steps in ")
    assert lines[1].endswith(" s (stopped by epochs)")
    for record in result.compiled.report.passes:
        assert any(record.text in line and record.exactness in line and "ms" in line for line in lines), record.text
    for batch in BATCHES:
        for figure in ("p50", "p99"):
            (row,) = (line for line in lines if f"batch {batch}, {figure}" in line)
            assert row.count("µs") == 2


@pytest.mark.slow
@needs_kernels
def test_a_budget_adds_a_column_and_the_certificate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    result = run_demo(seconds=600, rows=6_000, timing_seconds=0.2, budget=0.05, save=folder, progress=False)
    small = result.compressed
    assert small is not None
    certificate = small.compiled.report.budget
    assert certificate is not None
    assert certificate.bytes[1] < 0.5 * result.state_bytes[1]
    assert small.auc_change.estimate == pytest.approx(small.figures.auc - result.before.auc)
    assert set(result.latency[64].timings) == {"eager", "compiled", "compressed"}
    printed = capsys.readouterr().out
    assert "compressed / before" in printed
    assert certificate.summary() in " ".join(printed.split())
    assert recfx.load(folder).report.budget == certificate


def test_a_budget_out_of_range_is_an_error_before_the_training() -> None:
    with pytest.raises(InputError, match="max_drop=-1"):
        run_demo(budget=-1, progress=False)


@pytest.mark.slow
def test_on_real_criteo_exact_passes_leave_auc_as_it_is(data_dir: Path) -> None:
    result = run_demo(data=data_dir, seconds=5, timing_seconds=0.2, pipeline=EXACT_PIPELINE, progress=False)
    check(result)
    assert result.before == result.after
    assert result.largest_difference == 0.0
    assert (result.auc_change.low, result.auc_change.high) == (0.0, 0.0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_a_task(name: str) -> None:
    task = task_for(name, None, rows=3_000, seed=0)
    inputs = task.inputs(5)
    with torch.no_grad():
        output = task.model.eval()(*inputs)
    assert len(output) == 5
    assert (name in CTR_MODELS) == (inputs[0].dtype is torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"deepfm"}))
def test_every_model_of_the_zoo(name: str) -> None:
    result = run_demo(name, seconds=8, rows=10_000, timing_seconds=0.2, progress=False)
    assert set(result.latency) == set(BATCHES)
    assert result.largest_difference < 1e-4
    assert abs(result.auc_change.estimate) < 1e-4


def test_unknown_model_and_missing_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", "oracle"]) == 1
    assert "known:" in capsys.readouterr().err
    assert main(["demo", "--data", "/nowhere/at/all"]) == 1
    assert "no such file" in capsys.readouterr().err
