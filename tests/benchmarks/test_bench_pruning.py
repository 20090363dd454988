"""The benchmark of pruned models: its tables, the parts that it times, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import pruning
from recfx.capture import capture
from recfx.errors import MeasureError
from recfx.pipeline import Pipeline
from recfx.zoo import DLRM, DCNv2, DeepFM


@pytest.mark.parametrize(("name", "kind"), [("dlrm", DLRM), ("deepfm", DeepFM), ("dcn-v2", DCNv2)])
def test_the_timed_parts_are_those_of_the_pruned_program(name: str, kind: type[nn.Module]) -> None:
    model = kind.small().eval()  # type: ignore[attr-defined]
    program = capture(model, model.example_inputs(8))
    pruned = Pipeline("canonicalize,prune-channels{ratio=0.5, round_to=1}").run(program).program
    parts = pruning.pruned_parts(model, pruned, pruning.PARTS[name])
    smaller = sum(layer.weight.numel() for part in parts for layer in part.modules() if isinstance(layer, nn.Linear))
    whole = [getattr(model, part) for part in pruning.PARTS[name]]
    assert smaller < sum(m.weight.numel() for part in whole for m in part.modules() if isinstance(m, nn.Linear))
    for part in parts:
        first = next(layer for layer in part.modules() if isinstance(layer, nn.Linear))
        if not any(isinstance(layer, nn.BatchNorm1d) for layer in part.modules()):
            assert part(torch.randn(3, first.in_features)).shape[0] == 3


def test_turns_alternate_and_measure_the_call() -> None:
    order: list[str] = []
    before, after = (lambda: order.append("before") or 2.0), (lambda: order.append("after") or 1.0)  # type: ignore[func-returns-value]
    assert pruning.interleaved(before, after, 3) == ([2.0] * 3, [1.0] * 3)
    assert order == ["before", "after"] * 3
    x = torch.randn(200, 200)
    assert 0 < pruning.turns_of(lambda: x @ x)() < 1


@pytest.mark.slow
def test_the_tables() -> None:
    found = pruning.measure(pruning.Settings(None, ["dlrm"], 1, [2], 2, 2000, 1))
    assert "trained on answers" in found
    assert "| dlrm  |" in found


@pytest.mark.parametrize(
    ("settings", "message"),
    [(pruning.Settings(None, ["din"]), r"no MLPs are known of din"), (pruning.Settings(None, seeds=0), r"no seed")],
)
def test_refusals(settings: pruning.Settings, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        pruning.measure(settings)
