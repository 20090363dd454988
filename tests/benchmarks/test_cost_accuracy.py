"""The comparison of predicted and measured times: its statistics, and one small model on the backends that are always present."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calibration_kit import here, some_calibration
from hypothesis import given
from hypothesis import strategies as st

import benchmarks.cost_accuracy as cost_accuracy
from benchmarks.__main__ import main
from benchmarks.cost_accuracy import Pair, measure, rank_correlation, report
from recfx.cost.calibration import Calibration
from recfx.errors import MeasureError


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = ([float(value) for value in values] for values in zip(*pairs, strict=True))
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)


def test_the_report_counts_units_and_plans_apart() -> None:
    pairs = [
        Pair("m", "native", 1, "unit", 1.0, 0.5, 1.05, 1.1),
        Pair("m", "native", 1, "unit", 2.0, 1.0, 4.0, 2.2),
        Pair("m", "native", 1, "plan", 3.0, 1.0, 4.0, 4.0),
        Pair("m", "native", 1, "plan", 3.9, 1.0, 4.0, 4.0),
    ]
    line = report(pairs).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["native", "2", "1.000", "9%", "50%", "2", "14%", "50%"]


def test_a_small_model_is_predicted_on_both_backends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def known(backends: object, *, cache: object) -> Calibration:
        return some_calibration(machine=here(), backends={})

    monkeypatch.setattr(cost_accuracy, "calibrated", known)
    out = tmp_path / "times.json"
    assert main(["cost-model", "mf", "--batches", "4,64", "--out", str(out)]) == 0
    found = [Pair(**values) for values in json.loads(out.read_text())]
    assert {(p.backend, p.kind, p.rows) for p in found} == {
        (backend, kind, rows) for backend in ("native", "eager") for kind in ("unit", "plan") for rows in (4, 64)
    }
    assert all(0 < p.low <= p.predicted <= p.high and p.measured > 0 for p in found)
    assert "rank correlation" in capsys.readouterr().out


def test_a_backend_that_cannot_run_is_named() -> None:
    with pytest.raises(MeasureError, match="'absent' cannot run here"):
        measure(["mf"], ["absent"], [1])
