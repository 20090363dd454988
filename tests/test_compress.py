"""`recfx compress`: a model of a script within a budget or as a front, and options that do not go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from native_kit import needs_kernels

import recfx
from recfx.cli import main

SCRIPT = """
import torch
from recfx.data import CtrRecipe, synthetic_ctr
from recfx.zoo import DLRM

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(40, 8) for _ in range(3))
        self.last = torch.nn.Linear(2 + 24, 1)

    def forward(self, dense, sparse):
        rows = [table(sparse[:, i]) for i, table in enumerate(self.tables)]
        return self.last(torch.cat([dense, *rows], 1)).squeeze(1)

EXAMPLE = (torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.int64))

def make_model():
    return Small(), EXAMPLE

def narrow():
    return torch.nn.Linear(7, 1), (torch.zeros(4, 7),)

def two_scores():
    class Two(Small):
        def forward(self, dense, sparse):
            return super().forward(dense, sparse)[:, None].expand(-1, 2)
    return Two(), EXAMPLE

def own_metric():
    return {"model": Small(), "example_inputs": EXAMPLE, "evaluate": lambda model: float(model(*EXAMPLE).mean())}

def unknown():
    return {**own_metric(), "speed": 3}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    generator = np.random.default_rng(0)
    rows, columns = 900, generator.integers(0, 30, (900, 3))
    label = (columns[:, 0] + generator.normal(0, 8, rows) > 15).astype(int)
    numbers = generator.normal(size=(rows, 2))
    table = zip(numbers, columns, label, strict=True)
    lines = [f"{x:.3f},{y:.3f},u{a},v{b},w{c},{click}" for (x, y), (a, b, c), click in table]
    (tmp_path / "rows.csv").write_text("\n".join(["d0,d1,a,b,c,click", *lines]))
    return tmp_path


def run(folder: Path, *options: str, function: str = "make_model") -> int:
    return main(["compress", f"{folder / 'script.py'}:{function}", *options, "--target", "native"])


@needs_kernels
def test_a_model_within_a_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "model.recfx"
    data = ("--data", str(folder / "rows.csv"), "--label", "click")
    assert run(folder, *data, "--budget", "0.5", "--prefer", "bytes", "-o", str(out)) == 0
    said = capsys.readouterr().out
    assert "budget of 0.5 AUC" in said
    assert f"saved in {out}" in said
    report = recfx.load(out).report
    assert report.budget is not None
    assert report.state_bytes[1] < report.state_bytes[0]


@needs_kernels
def test_several_forms(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", str(folder / "rows.csv"), "--label", "click")
    assert run(folder, *data, "--pareto", str(folder / "front"), "--points", "2") == 0
    said = capsys.readouterr().out
    assert "form-00" in said
    assert len(recfx.Front.read(folder / "front").points) == 2


BUDGET = ("--budget", "0.01", "-o", "OUT")
REFUSED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "no output": (("--budget", "0.01"), "make_model", "--budget needs a folder"),
    "a budget below 0": (("--budget", "-1", "-o", "OUT"), "make_model", "max_drop=-1"),
    "a preference": ((*BUDGET, "--prefer", "memory"), "make_model", "prefer='memory'"),
    "an output of a front": (("--pareto", "FRONT", "-o", "OUT"), "make_model", "in its own folder"),
    "a front of one": (("--pareto", "FRONT", "--points", "1"), "own_metric", "points=1"),
    "a label without data": ((*BUDGET, "--label", "click"), "make_model", "go with --data"),
    "no such data": ((*BUDGET, "--data", "nowhere.npz"), "make_model", "no such file"),
    "no data": (BUDGET, "make_model", "--data is missing"),
    "no label": ((*BUDGET, "--data", "ROWS"), "make_model", "needs the name of its column of labels"),
    "another model": ((*BUDGET, "--data", "ROWS", "--label", "click"), "narrow", "fails on two rows of the data"),
    "two scores": ((*BUDGET, "--data", "ROWS", "--label", "click"), "two_scores", "one score for each row"),
    "a metric and data": ((*BUDGET, "--data", "ROWS"), "own_metric", "and --data was given"),
    "no such argument": (BUDGET, "unknown", "recfx.optimize has no argument speed"),
    "no such argument of a front": (("--pareto", "FRONT"), "unknown", "recfx.pareto has no argument speed"),
    "no such function": (BUDGET, "nothing", "defines no function nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, function, says = REFUSED[case]
    paths = {"OUT": folder / "out", "FRONT": folder / "front", "ROWS": folder / "rows.csv"}
    assert run(folder, *(str(paths.get(option, option)) for option in options), function=function) == 1
    said = capsys.readouterr().err
    assert says in said
    assert "next:" in said
    assert not (folder / "out").exists()


@pytest.mark.parametrize("options", [(), ("--budget", "0.1", "--pareto", "x")], ids=["neither", "both"])
def test_a_budget_or_a_front(options: tuple[str, ...], folder: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(folder, *options)
