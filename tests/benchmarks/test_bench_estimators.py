"""The comparison of estimators over seeds: pairs, resumed runs, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.papers import estimators
from recfx.errors import InputError


def _plan(folder: Path, **changes: object) -> estimators.Plan:
    return estimators.Plan(**{"data": "synthetic", "folder": folder, "seeds": 2, "bits": (1,), "epochs": 1, **changes})  # type: ignore[arg-type]


def test_differences_are_those_of_the_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = estimators.compare(_plan(tmp_path))
    recall = {
        (name, seed): json.loads((tmp_path / f"trained-{name}-centred-row-1-{seed}.json").read_text())["recall"]
        for name in ("ste", "gste")
        for seed in (0, 1)
    }
    apart = [recall["gste", seed] - recall["ste", seed] for seed in (0, 1)]
    row = [cell.strip() for cell in table.strip().splitlines()[-1].strip("|").split("|")]
    assert row[:2] == ["synthetic", "1"]
    assert row[5] == f"{sum(apart) / 2:+.4f}"
    # For two pairs, half of Student's 95 % interval is 12.706 standard errors; a standard error is |a - b| / 2.
    reach = 12.7062 * abs(apart[0] - apart[1]) / 2
    assert row[6] == f"{sum(apart) / 2 - reach:+.4f} to {sum(apart) / 2 + reach:+.4f}"

    def untouched(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(estimators, "train", untouched)
    assert estimators.compare(_plan(tmp_path)) == table
    with pytest.raises(InputError, match="another plan"):
        estimators.compare(_plan(tmp_path, epochs=2))


def test_what_makes_no_pairs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimators", "--data", "synthetic", "--out", str(tmp_path)]
    assert main([*command, "--seeds", "1"]) == 1
    assert "two seeds" in capsys.readouterr().err
    assert main([*command, "--pair", "ste"]) == 1
    assert main([*command, "--pair", "ste,steep"]) == 1
    assert "not two estimators" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
