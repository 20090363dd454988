"""Models whose calls take long: checks and measurements take few rows of the example, which bounds the time of `optimize`."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

import recfx
from recfx.capture import capture, crosscheck
from recfx.capture.inputs import normalize_call
from recfx.errors import CaptureError
from recfx.ir import probes as probing
from recfx.ir.numeric import Exactness, verify_numeric
from recfx.ir.probes import checked_example, first_rows, probes
from recfx.ir.program import Program

_ROWS = 16


class Slow(nn.Module):
    """A model whose calls outside a trace wait, and remember their rows.

    Args:
        calls: The number of calls that wait; None for all.
        fewest: The model refuses fewer rows.
    """

    def __init__(self, calls: int | None = None, fewest: int = 0) -> None:
        super().__init__()
        self.top = nn.Linear(4, 1)
        self.calls, self.fewest = calls, fewest
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> Any:
        if not torch.compiler.is_exporting():
            if x.shape[0] < self.fewest:
                raise ValueError("too few rows")
            if self.calls is None or len(self.seen) < self.calls:
                time.sleep(0.03)
            self.seen.append(x.shape[0])
        return self.top(x)[:, 0]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "LONG_CALL", 0.02)


def _compared(model: Slow, example: torch.Tensor) -> Program:
    """The program of a model, after its comparison with the model."""
    program = capture(model, (example,), check=False)
    model.seen.clear()
    crosscheck.compare_with_model(program, model, normalize_call(model, (example,), {}))
    return program


def test_checks_of_a_long_call_take_few_rows() -> None:
    model, example = Slow().eval(), torch.randn(_ROWS, 4)
    program = _compared(model, example)
    assert program.long_call is not None
    assert program.long_call >= 0.03
    assert model.seen.count(_ROWS) == 1, "the example is run once, to see whether it takes long"
    name, leaves = checked_example(program)
    assert name == "the first rows of the example"
    assert torch.equal(leaves[0], example[: len(leaves[0])])
    some = max(3, int(_ROWS * probing.LONG_CALL / program.long_call))
    assert some < _ROWS
    assert [len(held[0]) for _, held in probes(program)] == [1, some]
    runs = verify_numeric(program, program.clone(), Exactness.EXACT)
    assert max(len(run.leaves[0]) for run in runs if not run.special) == some


@pytest.mark.parametrize(
    ("size", "seconds", "rows"), [(16, 0.04, 8), (16, 0.02, 16), (16, 1.0, 3), (2, 1.0, 2), (4096, 0.03, 2730)]
)
def test_the_larger_batch_takes_as_long_as_a_call_may(size: int, seconds: float, rows: int) -> None:
    program = capture(nn.Linear(4, 1).eval(), (torch.randn(size, 4),), check=False)
    program.long_call = seconds
    assert [len(held[0]) for _, held in probes(program)] == [1, rows]


@pytest.mark.parametrize(
    "model", [Slow(calls=1), Slow(fewest=3)], ids=["prepares something at first", "refuses few rows"]
)
def test_other_models_are_checked_on_the_example(model: Slow) -> None:
    program = _compared(model.eval(), torch.randn(_ROWS, 4))
    assert program.long_call is None
    assert checked_example(program)[0] == "the example inputs"
    assert _ROWS in {len(leaves[0]) for _, leaves in probes(program)}


def test_a_difference_at_other_sizes_than_the_example_is_found() -> None:
    class Other(Slow):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x) + (x.shape[0] != _ROWS)

    model, example = Other().eval(), torch.randn(_ROWS, 4)
    plain = Slow().eval()
    plain.load_state_dict(model.state_dict())
    program = capture(plain, (example,), check=False)
    with pytest.raises(CaptureError, match="disagrees with the model"):
        crosscheck.compare_with_model(program, model, normalize_call(model, (example,), {}))


def test_the_report_has_the_rows_that_were_measured() -> None:
    fast = recfx.optimize(Slow().eval(), target="eager", example_inputs=(torch.randn(1000, 4),))
    seconds = fast.parts.program.long_call
    assert seconds is not None
    some = max(2, round(1000 * 0.1 / seconds))
    assert [measured.batch for measured in fast.report.measured] == [1, some if some < 1000 else 1000]


def test_rows_that_cannot_be_cut_out() -> None:
    program = capture(nn.Linear(4, 1).eval(), (torch.randn(3, 4),))
    assert [len(leaf) for leaf in first_rows(program, 2) or []] == [2]
    assert first_rows(program, 3) is None, "these are all rows"
    fixed = capture(nn.Linear(4, 1).eval(), (torch.randn(3, 4),), dynamic_shapes=False)
    assert first_rows(fixed, 2) is None
