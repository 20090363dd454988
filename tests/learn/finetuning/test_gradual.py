"""Pruning in stages: the schedule, the sizes that remain, and resumption."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_kit import rows, small
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from recfx.capture import capture
from recfx.errors import InputError, PassError
from recfx.learn import prune_gradually
from recfx.learn.finetuning.gradual import cubic_ratios
from recfx.pipeline import Pipeline

TEXT = "canonicalize,prune-channels{ratio=0.5, round_to=4}"


def sizes(program: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in program.state().items()}


@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_the_schedule_rises_ever_more_slowly_to_its_end(ratio: float, stages: int) -> None:
    found = [0.0, *cubic_ratios(ratio, stages)]
    steps = [after - before for before, after in pairwise(found)]
    assert found[-1] == ratio
    assert min(steps) > 0
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(
    "options", ["", ", ranking=global", ", amount=multiply-adds", ", amount=bytes, kinds=[channels, columns]"]
)
def test_the_last_stage_leaves_what_one_pruning_leaves(options: str) -> None:
    model, inputs = small(bottom=(16,), top=(24, 16))
    program = capture(model, inputs)
    ratio = 0.3 if "bytes" in options else 0.5
    text = f"canonicalize,prune-channels{{ratio={ratio}, round_to=2{options}}}"
    loader = DataLoader(rows(inputs, 32), 32)
    found = prune_gradually(program, loader, pruning=text, stages=3, epochs=1, lr=0.0 + 1e-12)
    once = Pipeline(text).run(program).program
    assert [stage.ratio for stage in found.stages] == cubic_ratios(ratio, 3)
    if "global" in options or "bytes" in options:  # norms relative to a group change when the group becomes smaller
        left, wanted = (sum(t.numel() for t in p.state().values()) for p in (found.program, once))
        assert abs(left - wanted) <= 0.1 * wanted
    else:
        assert sizes(found.program) == sizes(once)
    assert found.program.run(list(inputs))[0].shape == program.run(list(inputs))[0].shape


def test_every_stage_is_trained_and_smaller() -> None:
    model, inputs = small(bottom=(16,), top=(32, 16))
    program = capture(model, inputs)
    seen: list[int] = []

    def judge(module: torch.nn.Module) -> float:
        seen.append(sum(p.numel() for p in module.parameters()))
        return 0.0

    loader = DataLoader(rows(inputs, 32), 32)
    found = prune_gradually(program, loader, pruning=TEXT, stages=3, epochs=1, lr=1e-2, evaluate=judge, teacher=model)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 3
    assert [len(stage.report.losses) for stage in found.stages] == [1, 1, 1]


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    model, inputs = small(bottom=(16,), top=(16, 16))
    program, loader = capture(model, inputs), DataLoader(rows(inputs, 64), 32, shuffle=True)
    arguments: dict[str, Any] = {"pruning": TEXT, "stages": 2, "epochs": 1, "lr": 1e-2}
    whole = prune_gradually(program, loader, **arguments)
    first = prune_gradually(program, loader, folder=tmp_path, **arguments)
    again = prune_gradually(program, loader, folder=tmp_path, **arguments)
    for other in (first, again):
        assert [stage.report.losses for stage in other.stages] == [stage.report.losses for stage in whole.stages]
        for ours, theirs in zip(other.module.parameters(), whole.module.parameters(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stages": 0}, r"in 0 stages"),
        ({"pruning": "canonicalize"}, r"one prune-channels among the passes, got 0"),
        ({"pruning": "prune-channels{ratio=0.5},prune-channels{ratio=0.6}"}, r"got 2"),
    ],
)
def test_bad_schedules_are_refused(changed: dict[str, Any], message: str) -> None:
    model, inputs = small()
    with pytest.raises(InputError, match=message):
        prune_gradually(capture(model, inputs), DataLoader(rows(inputs, 32), 32), **changed)


def test_another_program_than_the_unpruned_one_is_refused() -> None:
    model, inputs = small(bottom=(16,), top=(16, 16))
    program = capture(model, inputs)
    other = capture(small(bottom=(8,), top=(8, 8))[0], inputs)
    with pytest.raises(PassError, match=r"not what pruning left of the program"):
        Pipeline(TEXT).run(program, resources={"unpruned": other}, reproducer=False)
