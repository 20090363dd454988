"""Training end to end: it learns, stops, resumes bit for bit, and refuses bad input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learn_kit import QUICK, Interrupted, UserSampler, encoder, judge, one_bit, planted, recall, same, state_of
from torch import Tensor

from recfx.data import Interactions, synthetic_feedback
from recfx.errors import InputError, RecfxError
from recfx.learn import (
    BCE,
    Batch,
    EpochSampler,
    QuantizedModel,
    SampledSoftmax,
    TableEncoder,
    TopRDistillation,
    Trainer,
    TrainSettings,
    make_quantizer,
    teacher_top,
)


@pytest.fixture(scope="module")
def data() -> Interactions:
    return planted()


@pytest.mark.parametrize(("kind", "share"), [("table", 0.93), pytest.param("graph", 0.88, marks=pytest.mark.slow)])
def test_trained_one_bit_beats_rounding_afterwards(kind: str, share: float) -> None:
    """The same encoder in full precision, its signs, its scaled signs, and an encoder trained with one bit."""
    data = Interactions.from_feedback(synthetic_feedback(600, 400, 6, per_user=80, zipf=0.4, scale=4))
    settings = replace(QUICK, epochs=30, evaluate_every=3, patience=4)
    full = QuantizedModel(encoder(data, kind))
    Trainer(full, UserSampler(data), settings, evaluate=judge(data)).run()
    users, items = full.embeddings()
    scaled = [make_quantizer(1)(table) for table in (users, items)]
    rounded = max(recall(users.sign(), items.sign(), data), recall(scaled[0], scaled[1], data))
    model = one_bit(data, kind)
    report = Trainer(model, UserSampler(data), settings, evaluate=judge(data)).run()
    assert report.best_scores is not None
    trained = report.best_scores["recall@50"]
    assert trained == recall(*model.embeddings(), data)
    assert trained > rounded + 0.01
    assert trained > share * recall(users, items, data)
    assert report.losses[-1] < report.losses[0]
    assert all(delta > 0 for _, values in report.deltas for delta in values)


def test_the_seed_decides(data: Interactions) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(seed * 3)
        before = torch.get_rng_state()
        model = one_bit(data)
        Trainer(model, UserSampler(data), replace(QUICK, epochs=1, seed=seed)).run()
        states.append(state_of(model))
        torch.set_rng_state(before)
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_the_surroundings_stay_as_they_were(data: Interactions) -> None:
    model = QuantizedModel(one_bit(data).encoder)
    before = torch.get_rng_state()
    assert not torch.are_deterministic_algorithms_enabled()
    Trainer(model, UserSampler(data), replace(QUICK, epochs=1)).run()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("loss", [BCE(), SampledSoftmax()])
def test_other_losses_learn(data: Interactions, loss: Any) -> None:
    model = one_bit(data)
    before = recall(*_rounded(model, data), data)
    report = Trainer(
        model, UserSampler(data, negatives=4), replace(QUICK, epochs=15), loss=loss, evaluate=judge(data)
    ).run()  # fmt: skip
    assert report.best_scores is not None
    assert report.best_scores["recall@50"] > before + 0.1


def _rounded(model: QuantizedModel, data: Interactions) -> tuple[Tensor, Tensor]:
    model(Batch.of(torch.arange(data.n_users), *(torch.arange(data.n_users) % data.n_items for _ in range(2))))
    return model.embeddings()


def test_the_teachers_ranking_is_learned(data: Interactions) -> None:
    """After a few epochs from random weights, the top items agree more with the teacher's."""
    teacher = QuantizedModel(encoder(data, "table"))
    Trainer(teacher, UserSampler(data), replace(QUICK, epochs=20)).run()
    top = teacher_top(*teacher.embeddings(), 20)
    agreement = []
    for distillation in (None, TopRDistillation(top)):
        model = one_bit(data)
        Trainer(model, UserSampler(data), replace(QUICK, epochs=6), distillation=distillation).run()
        found = teacher_top(*model.embeddings(), 20)
        agreement.append(float((found.unsqueeze(2) == top.unsqueeze(1)).any(2).float().mean()))
    assert agreement[1] > agreement[0] + 0.05


def test_samplers_with_a_generator_of_their_own(data: Interactions) -> None:
    """The trainer's generator replaces the samplers' own, so that the seed of the run determines the samples."""

    class Own:
        def __init__(self, seed: int) -> None:
            self.generator = torch.Generator().manual_seed(seed)
            self.samples = len(data.train_indices)

        def epoch(self, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            return iter(list(UserSampler(data, batch)(self.generator)))

    states = []
    for seed in (1, 2):
        model = one_bit(data)
        sampler = EpochSampler(Own(seed), 1000)
        report = Trainer(model, sampler, replace(QUICK, epochs=2)).run()
        states.append(state_of(model))
        assert report.steps == 2 * len(sampler(torch.Generator())) == 2 * -(-len(data.train_indices) // 1000)
    assert same(*states)
    with pytest.raises(InputError):
        EpochSampler(Own(0), 0)


def test_patience(data: Interactions) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    states: list[dict[str, Tensor]] = []

    def evaluate(model: QuantizedModel) -> float:
        assert not model.training
        states.append(state_of(model))
        return next(scores)

    model = one_bit(data)
    report = Trainer(model, UserSampler(data), replace(QUICK, epochs=9, patience=2), evaluate=evaluate).run()
    assert (report.stopped, report.best, len(report.losses)) == ("patience", 1, 4)
    assert same(state_of(model), states[1])


def test_time(data: Interactions) -> None:
    report = Trainer(one_bit(data), UserSampler(data), replace(QUICK, seconds=0)).run()
    assert (report.stopped, report.steps) == ("time", 1)


def test_monitor(data: Interactions) -> None:
    figures = iter([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 0.5}])
    settings = replace(QUICK, monitor="b")
    report = Trainer(one_bit(data), UserSampler(data), settings, evaluate=lambda model: next(figures)).run()
    assert report.best == 1
    with pytest.raises(InputError, match="not 'c'"):
        Trainer(one_bit(data), UserSampler(data), replace(QUICK, monitor="c"), evaluate=lambda m: {"a": 1.0}).run()


@pytest.mark.parametrize("kind", ["table", "graph"])
def test_a_step_is_adam_on_bpr_and_the_penalty(kind: str, data: Interactions) -> None:
    """LightGCN's authors: mean softplus(s_uj - s_ui) + l2 / 2 (|e_u|^2 + |e_i|^2 + |e_j|^2) / B on the free embeddings."""
    model, plain = QuantizedModel(encoder(data, kind)), encoder(data, kind)
    Trainer(model, UserSampler(data), replace(QUICK, epochs=2, l2=0.1)).run()
    optimizer = torch.optim.Adam(plain.parameters(), lr=QUICK.lr)
    generator = torch.Generator().manual_seed(QUICK.seed)
    graph = QuantizedModel(plain).encoder
    for users, positives, negatives in [*UserSampler(data)(generator), *UserSampler(data)(generator)]:
        user_table, item_table = graph.embeddings()  # type: ignore[operator]
        lag = (user_table[users] * (item_table[negatives] - item_table[positives])).sum(1)
        free = plain.users.weight[users], plain.items.weight[positives], plain.items.weight[negatives]  # type: ignore[union-attr,index]
        penalty = 0.05 * sum(part.square().sum() for part in free) / len(users)
        optimizer.zero_grad()
        (torch.nn.functional.softplus(lag).mean() + penalty).backward()
        optimizer.step()
    for found, want in zip(model.embeddings(), graph.embeddings(), strict=True):  # type: ignore[operator]
        torch.testing.assert_close(found, want.detach(), rtol=1e-3, atol=1e-4)


def test_l2_pulls_towards_zero(data: Interactions) -> None:
    norms = []
    for l2 in (0.0, 0.5):
        model = QuantizedModel(encoder(data, "graph"))
        Trainer(model, UserSampler(data), replace(QUICK, epochs=5, l2=l2)).run()
        norms.append(float(model.embeddings()[0].norm()))
    assert norms[1] < 0.8 * norms[0]


def test_samplers_that_do_not_fit(data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="0 batches"):
        Trainer(one_bit(data), lambda generator: [], QUICK).run()
    with monkeypatch.context() as patch:
        stop = lambda: patch.setattr("recfx.learn._clock.Clock.out", lambda self: True)  # noqa: E731
        Trainer(one_bit(data), Interrupted(UserSampler(data), 2, stop), QUICK, folder=tmp_path).run()
    one = lambda generator: list(UserSampler(data)(generator))[:1]  # noqa: E731
    with pytest.raises(InputError, match="1 batches, expected at least 2"):
        Trainer(one_bit(data), one, QUICK, folder=tmp_path).run()


def test_divergence_is_told(data: Interactions) -> None:
    model = QuantizedModel(encoder(data, "table"))
    with torch.no_grad():
        model.encoder.users.weight[3] = torch.nan  # type: ignore[union-attr,index,operator]
    with pytest.raises(RecfxError, match="diverged"):
        Trainer(model, UserSampler(data), QUICK).run()
    with pytest.raises(RecfxError, match="nan"):
        Trainer(one_bit(data), UserSampler(data), QUICK, evaluate=lambda m: float("nan")).run()
    frozen = TableEncoder(3, 3, 2).requires_grad_(False)
    with pytest.raises(InputError, match="no parameters"):
        Trainer(QuantizedModel(frozen), UserSampler(data), QUICK).run()


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
    model = one_bit(data, "graph").cuda()
    folder = tmp_path
    settings = replace(QUICK, epochs=10)
    Trainer(model, UserSampler(data), replace(settings, epochs=5), folder=folder).run()
    report = Trainer(model, UserSampler(data), settings, folder=folder).run()
    assert report.losses[-1] < report.losses[0]
    assert next(model.parameters()).is_cuda
