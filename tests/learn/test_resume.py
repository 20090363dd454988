"""Stopped runs continue bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learn_kit import QUICK, Interrupted, UserSampler, judge, one_bit, planted, same, state_of
from torch import Tensor

from recfx.data import Interactions
from recfx.errors import ArtifactError
from recfx.learn import (
    ESTIMATORS,
    Curvature,
    DeltaSettings,
    QuantizedModel,
    TableEncoder,
    TopRDistillation,
    Trainer,
    TrainReport,
    make_quantizer,
    teacher_top,
)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return planted()


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("bounds", ["learned", "ema-minmax", "per-row"])
def test_resuming_is_bit_for_bit(
    estimator: str, bounds: str, data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch twice, with all features that draw random numbers or hold state."""
    top = teacher_top(torch.randn(data.n_users, 4), torch.randn(data.n_items, 4), 10)
    ema = DeltaSettings(every=2, unit="steps", batches=2, ema=0.5)

    def trainer(folder: Path | None, sampler: Any = None) -> Trainer:
        return Trainer(
            one_bit(data, "table", estimator, bounds),
            sampler or UserSampler(data, negatives=2),
            replace(QUICK, epochs=3, evaluate_every=2),
            evaluate=judge(data),
            curvature=Curvature(ema),
            distillation=TopRDistillation(top, draws=3),
            folder=folder,
        )

    whole = trainer(None)
    want = whole.run()
    if estimator == "guidance":  # beta is still 0 after so few epochs; this makes both kinds of rows occur
        monkeypatch.setattr("recfx.learn.Guidance.start_epoch", lambda self, epoch: self.beta.fill_(0.5))
        whole = trainer(None)
        want = whole.run()
    for stop_after in (2, 4):
        with monkeypatch.context() as patch:
            ran_out = lambda p=patch: p.setattr("recfx.learn._clock.Clock.out", lambda self: True)  # noqa: E731
            sampler = Interrupted(UserSampler(data, negatives=2), stop_after, ran_out)
            part = trainer(tmp_path, sampler)
            assert part.run().stopped == "time"
    torch.rand(7)  # other draws from the generator must not matter
    resumed = trainer(tmp_path)
    found = resumed.run()
    assert same(state_of(resumed.model), state_of(whole.model))
    assert (found.losses, found.scores, found.deltas) == (want.losses, want.scores, want.deltas)
    assert (found.steps, found.best, found.stopped) == (want.steps, want.best, want.stopped)
    again = trainer(tmp_path)
    assert replace(again.run(), seconds=0.0) == replace(found, seconds=0.0)
    assert same(state_of(again.model), state_of(whole.model))


def test_a_finished_run_goes_on_with_more_epochs(data: Interactions, tmp_path: Path) -> None:
    def run(epochs: int, folder: Path | None) -> tuple[TrainReport, dict[str, Tensor]]:
        model = one_bit(data, "graph")
        settings = replace(QUICK, epochs=epochs, evaluate_every=1, checkpoint_seconds=0)
        report = Trainer(model, UserSampler(data), settings, evaluate=judge(data), folder=folder).run()
        return report, state_of(model)

    run(1, tmp_path)
    report, state = run(3, tmp_path)
    want, whole = run(3, None)
    assert same(state, whole)
    assert report.scores == want.scores


def test_checkpoints_of_others_are_refused(data: Interactions, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1)
    Trainer(one_bit(data), UserSampler(data), settings, folder=tmp_path).run()
    with pytest.raises(ArtifactError, match="lr"):
        Trainer(one_bit(data), UserSampler(data), replace(settings, lr=0.1), folder=tmp_path).run()
    other = QuantizedModel(TableEncoder(data.n_users, data.n_items, 8), make_quantizer(1), make_quantizer(1))
    with pytest.raises(ArtifactError, match=r"another experiment.*float32\[200, 16\], now it is float32\[200, 8\]"):
        Trainer(other, UserSampler(data), settings, folder=tmp_path).run()
