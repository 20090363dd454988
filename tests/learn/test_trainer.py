"""Training end to end: it learns, stops, resumes bit for bit, and complains about bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learn_kit import UserSampler, judge, planted, recall
from torch import Tensor, nn

from recfx.data import Interactions, synthetic_feedback
from recfx.errors import ArtifactError, InputError, RecfxError
from recfx.learn import (
    BCE,
    ESTIMATORS,
    Batch,
    Curvature,
    DeltaSettings,
    QuantizedModel,
    SampledSoftmax,
    TableEncoder,
    TopRDistillation,
    Trainer,
    TrainReport,
    TrainSettings,
    make_quantizer,
    teacher_top,
)
from recfx.zoo import LightGCN

SETTINGS = TrainSettings(epochs=3, lr=5e-3, evaluate_every=1, progress=False)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return planted()


def _encoder(data: Interactions, kind: str, dim: int = 16) -> nn.Module:
    torch.manual_seed(0)
    if kind == "table":
        return TableEncoder(data.n_users, data.n_items, dim)
    return LightGCN.for_interactions(data.n_users, data.n_items, *data.train_pairs(), dim=dim, layers=2)


def _model(data: Interactions, kind: str = "table", estimator: str = "gste", bounds: str = "per-row") -> QuantizedModel:
    users, items = (make_quantizer(1, estimator, bounds, dim=16) for _ in range(2))
    return QuantizedModel(_encoder(data, kind), users, items)


@pytest.mark.parametrize(("kind", "share"), [("table", 0.93), ("graph", 0.88)])
def test_trained_one_bit_beats_rounding_afterwards(kind: str, share: float) -> None:
    """The same encoder in full precision, its signs, its scaled signs, and the one trained with one bit."""
    data = Interactions.from_feedback(synthetic_feedback(600, 400, 6, per_user=80, zipf=0.4, scale=4))
    settings = replace(SETTINGS, epochs=30, evaluate_every=3, patience=4)
    full = QuantizedModel(_encoder(data, kind))
    Trainer(full, UserSampler(data), settings, evaluate=judge(data)).run()
    users, items = full.embeddings()
    scaled = [make_quantizer(1)(table) for table in (users, items)]
    rounded = max(recall(users.sign(), items.sign(), data), recall(scaled[0], scaled[1], data))
    model = _model(data, kind)
    report = Trainer(model, UserSampler(data), settings, evaluate=judge(data)).run()
    assert report.best_scores is not None
    trained = report.best_scores["recall@50"]
    assert trained == recall(*model.embeddings(), data)
    assert trained > rounded + 0.01
    assert trained > share * recall(users, items, data)
    assert report.losses[-1] < report.losses[0]
    assert all(delta > 0 for _, values in report.deltas for delta in values)


def _state(model: QuantizedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class _Interrupted:
    """Samples that run out of time: training stops after so many batches, as if the budget were used up."""

    def __init__(self, sampler: UserSampler, batches: int, stop: Callable[[], None]) -> None:
        self.sampler, self.left, self.stop = sampler, batches, stop

    def __call__(self, generator: torch.Generator) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        for sample in self.sampler(generator):
            self.left -= 1
            if self.left == 0:
                self.stop()
            yield sample


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("bounds", ["learned", "ema-minmax", "per-row"])
def test_resuming_is_bit_for_bit(
    estimator: str, bounds: str, data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch twice, with everything that draws or remembers switched on."""
    top = teacher_top(torch.randn(data.n_users, 4), torch.randn(data.n_items, 4), 10)
    ema = DeltaSettings(every=2, unit="steps", batches=2, ema=0.5)

    def trainer(folder: Path | None, sampler: Any = None) -> Trainer:
        return Trainer(
            _model(data, "table", estimator, bounds),
            sampler or UserSampler(data, negatives=2),
            replace(SETTINGS, epochs=3, evaluate_every=2),
            evaluate=judge(data),
            curvature=Curvature(ema),
            distillation=TopRDistillation(top, draws=3),
            folder=folder,
        )

    whole = trainer(None)
    want = whole.run()
    if estimator == "guidance":  # beta is still 0 in so few epochs: let both kinds of rows occur
        monkeypatch.setattr("recfx.learn.Guidance.start_epoch", lambda self, epoch: self.beta.fill_(0.5))
        whole = trainer(None)
        want = whole.run()
    for stop_after in (2, 4):
        with monkeypatch.context() as patch:
            ran_out = lambda p=patch: p.setattr("recfx.learn.trainer._Clock.out", lambda self: True)  # noqa: E731
            sampler = _Interrupted(UserSampler(data, negatives=2), stop_after, ran_out)
            part = trainer(tmp_path, sampler)
            assert part.run().stopped == "time"
    torch.rand(7)  # what others draw meanwhile must not matter
    resumed = trainer(tmp_path)
    found = resumed.run()
    assert _same(_state(resumed.model), _state(whole.model))
    assert (found.losses, found.scores, found.deltas) == (want.losses, want.scores, want.deltas)
    assert (found.steps, found.best, found.stopped) == (want.steps, want.best, want.stopped)
    again = trainer(tmp_path)
    assert replace(again.run(), seconds=0.0) == replace(found, seconds=0.0)
    assert _same(_state(again.model), _state(whole.model))


def test_a_finished_run_goes_on_with_more_epochs(data: Interactions, tmp_path: Path) -> None:
    def run(epochs: int, folder: Path | None) -> tuple[TrainReport, dict[str, Tensor]]:
        model = _model(data, "graph")
        settings = replace(SETTINGS, epochs=epochs, evaluate_every=1, checkpoint_seconds=0)
        report = Trainer(model, UserSampler(data), settings, evaluate=judge(data), folder=folder).run()
        return report, _state(model)

    run(1, tmp_path)
    report, state = run(3, tmp_path)
    want, whole = run(3, None)
    assert _same(state, whole)
    assert report.scores == want.scores


def test_the_seed_decides(data: Interactions) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(seed * 3)
        before = torch.get_rng_state()
        model = _model(data)
        Trainer(model, UserSampler(data), replace(SETTINGS, epochs=1, seed=seed)).run()
        states.append(_state(model))
        torch.set_rng_state(before)
    assert _same(states[0], states[1])
    assert not _same(states[0], states[2])


def test_the_surroundings_stay_as_they_were(data: Interactions) -> None:
    model = QuantizedModel(_model(data).encoder)
    before = torch.get_rng_state()
    assert not torch.are_deterministic_algorithms_enabled()
    Trainer(model, UserSampler(data), replace(SETTINGS, epochs=1)).run()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("loss", [BCE(), SampledSoftmax()])
def test_other_losses_learn(data: Interactions, loss: Any) -> None:
    model = _model(data)
    before = recall(*_rounded(model, data), data)
    report = Trainer(
        model, UserSampler(data, negatives=4), replace(SETTINGS, epochs=15), loss=loss, evaluate=judge(data)
    ).run()  # fmt: skip
    assert report.best_scores is not None
    assert report.best_scores["recall@50"] > before + 0.1


def _rounded(model: QuantizedModel, data: Interactions) -> tuple[Tensor, Tensor]:
    model(Batch.of(torch.arange(data.n_users), *(torch.arange(data.n_users) % data.n_items for _ in range(2))))
    return model.embeddings()


def test_the_teachers_ranking_is_learned(data: Interactions) -> None:
    """After few epochs from scratch the top items agree more with the teacher's."""
    teacher = QuantizedModel(_encoder(data, "table"))
    Trainer(teacher, UserSampler(data), replace(SETTINGS, epochs=20)).run()
    top = teacher_top(*teacher.embeddings(), 20)
    agreement = []
    for distillation in (None, TopRDistillation(top)):
        model = _model(data)
        Trainer(model, UserSampler(data), replace(SETTINGS, epochs=6), distillation=distillation).run()
        found = teacher_top(*model.embeddings(), 20)
        agreement.append(float((found.unsqueeze(2) == top.unsqueeze(1)).any(2).float().mean()))
    assert agreement[1] > agreement[0] + 0.05


def test_patience(data: Interactions) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    states: list[dict[str, Tensor]] = []

    def evaluate(model: QuantizedModel) -> float:
        assert not model.training
        states.append(_state(model))
        return next(scores)

    model = _model(data)
    report = Trainer(model, UserSampler(data), replace(SETTINGS, epochs=9, patience=2), evaluate=evaluate).run()
    assert (report.stopped, report.best, len(report.losses)) == ("patience", 1, 4)
    assert _same(_state(model), states[1])


def test_time(data: Interactions) -> None:
    report = Trainer(_model(data), UserSampler(data), replace(SETTINGS, seconds=0)).run()
    assert (report.stopped, report.steps) == ("time", 1)


def test_monitor(data: Interactions) -> None:
    figures = iter([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 0.5}])
    settings = replace(SETTINGS, monitor="b")
    report = Trainer(_model(data), UserSampler(data), settings, evaluate=lambda model: next(figures)).run()
    assert report.best == 1
    with pytest.raises(InputError, match="not 'c'"):
        Trainer(_model(data), UserSampler(data), replace(SETTINGS, monitor="c"), evaluate=lambda m: {"a": 1.0}).run()


def test_l2_pulls_towards_zero(data: Interactions) -> None:
    norms = []
    for l2 in (0.0, 0.5):
        model = QuantizedModel(_encoder(data, "graph"))
        Trainer(model, UserSampler(data), replace(SETTINGS, epochs=5, l2=l2)).run()
        norms.append(float(model.embeddings()[0].norm()))
    assert norms[1] < 0.8 * norms[0]


def test_checkpoints_of_others_are_refused(data: Interactions, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    Trainer(_model(data), UserSampler(data), settings, folder=tmp_path).run()
    with pytest.raises(ArtifactError, match="lr"):
        Trainer(_model(data), UserSampler(data), replace(settings, lr=0.1), folder=tmp_path).run()
    other = QuantizedModel(TableEncoder(data.n_users, data.n_items, 8), make_quantizer(1), make_quantizer(1))
    with pytest.raises(ArtifactError, match="another model"):
        Trainer(other, UserSampler(data), settings, folder=tmp_path).run()


def test_samplers_that_do_not_fit(data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="0 batches"):
        Trainer(_model(data), lambda generator: [], SETTINGS).run()
    with monkeypatch.context() as patch:
        stop = lambda: patch.setattr("recfx.learn.trainer._Clock.out", lambda self: True)  # noqa: E731
        Trainer(_model(data), _Interrupted(UserSampler(data), 2, stop), SETTINGS, folder=tmp_path).run()
    one = lambda generator: list(UserSampler(data)(generator))[:1]  # noqa: E731
    with pytest.raises(InputError, match="1 batches, expected at least 2"):
        Trainer(_model(data), one, SETTINGS, folder=tmp_path).run()


def test_divergence_is_told(data: Interactions) -> None:
    model = QuantizedModel(_encoder(data, "table"))
    with torch.no_grad():
        model.encoder.users.weight[3] = torch.nan  # type: ignore[union-attr,index,operator]
    with pytest.raises(RecfxError, match="diverged"):
        Trainer(model, UserSampler(data), SETTINGS).run()
    with pytest.raises(RecfxError, match="nan"):
        Trainer(_model(data), UserSampler(data), SETTINGS, evaluate=lambda m: float("nan")).run()
    frozen = TableEncoder(3, 3, 2).requires_grad_(False)
    with pytest.raises(InputError, match="no parameters"):
        Trainer(QuantizedModel(frozen), UserSampler(data), SETTINGS).run()


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0}, {"evaluate_every": 0}, {"patience": 0}, {"lr": 0.0}, {"lr": float("nan")},
        {"bounds_lr": -1.0}, {"l2": -1.0}, {"seconds": -1.0}, {"checkpoint_seconds": -1.0},
    ],
)  # fmt: skip
def test_settings_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        TrainSettings(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(data: Interactions, tmp_path: Path) -> None:
    model = _model(data, "graph").cuda()
    folder = tmp_path
    settings = replace(SETTINGS, epochs=10)
    Trainer(model, UserSampler(data), replace(settings, epochs=5), folder=folder).run()
    report = Trainer(model, UserSampler(data), settings, folder=folder).run()
    assert report.losses[-1] < report.losses[0]
    assert next(model.parameters()).is_cuda
