"""The training loop: learning, stopping, the final state of the model, and its optimiser."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recfx.data import (
    CtrSplit,
    clicks,
    evaluate_ctr,
    fit,
    load_ctr,
    predict,
    synthetic_feedback,
    tensor_batches,
    train_ctr,
)
from recfx.data._optimizers import TableAdam, sparse_gradients
from recfx.data.batches import Batches
from recfx.data.ctr import CtrData
from recfx.errors import DataError, InputError, RecfxError


def line_batches(n: int = 256, size: int = 32) -> Batches[tuple[Tensor, ...]]:
    x = torch.linspace(-1, 1, n)[:, None]
    return tensor_batches(x, 3 * x + 1, batch_size=size)


def squared(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def test_a_line_is_fitted() -> None:
    model = nn.Linear(1, 1)
    log = fit(model, line_batches(), squared, epochs=60, lr=0.05)
    assert model.weight.item() == pytest.approx(3, abs=0.02)
    assert model.bias.item() == pytest.approx(1, abs=0.02)
    assert log.steps == 60 * 8
    assert len(log.losses) == 60
    assert log.losses[-1] < log.losses[0] / 100
    assert (log.stopped, log.best_epoch, log.scores) == ("epochs", None, [])
    assert not model.training
    assert model.weight.grad is None


def test_the_best_validated_state_is_restored() -> None:
    model = nn.Linear(1, 1)
    scripted = iter([0.1, 0.5, 0.3, 0.2])
    states: list[Tensor] = []

    def validate(module: nn.Module) -> float:
        assert not module.training
        assert not torch.is_grad_enabled()
        states.append(model.weight.detach().clone())
        return next(scripted)

    log = fit(model, line_batches(), squared, epochs=4, validate=validate)
    assert log.scores == [0.1, 0.5, 0.3, 0.2]
    assert log.best_epoch == 1
    assert torch.equal(model.weight, states[1])
    assert not torch.equal(states[1], states[3])


def test_patience_and_time_stop_it() -> None:
    scripted = iter([0.5, 0.4, 0.6, 0.1, 0.1, 0.9])
    log = fit(nn.Linear(1, 1), line_batches(), squared, epochs=9, patience=2, validate=lambda module: next(scripted))
    assert (log.stopped, log.scores, log.best_epoch) == ("patience", [0.5, 0.4, 0.6, 0.1, 0.1], 2)
    log = fit(nn.Linear(1, 1), line_batches(), squared, epochs=10**6, seconds=0.2)
    assert log.stopped == "time"
    assert 0.2 <= log.seconds < 5
    log = fit(nn.Linear(1, 1), line_batches(), squared, epochs=3, seconds=0.0, validate=lambda module: 1.0)
    assert (log.steps, log.scores, log.best_epoch) == (1, [1.0], 0)


def test_it_is_deterministic_and_leaves_the_global_random_state_alone() -> None:
    def trained(seed: int) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        before = torch.get_rng_state()
        fit(model, line_batches(), squared, epochs=2, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_divergence_is_an_error() -> None:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(RecfxError, match="the loss is nan at step 1"):
        fit(model, line_batches(), squared)
    with pytest.raises(RecfxError, match="validation score is nan"):
        fit(nn.Linear(1, 1), line_batches(), squared, validate=lambda module: float("nan"))


def test_nothing_to_train() -> None:
    for arguments in ({"epochs": 0}, {"patience": 0}):
        with pytest.raises(DataError, match="nothing to train"):
            fit(nn.Linear(1, 1), line_batches(), squared, **arguments)  # type: ignore[arg-type]
    empty = tensor_batches(torch.zeros(3, 1), torch.zeros(3, 1), batch_size=4, drop_last=True)
    with pytest.raises(DataError, match="0 batches"):
        fit(nn.Linear(1, 1), empty, squared)


def test_the_bar_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        fit(nn.Linear(1, 1), line_batches(), squared, epochs=2)
        assert ("training" in stream.getvalue()) == shown
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    fit(nn.Linear(1, 1), line_batches(), squared, progress=False)
    assert quiet.getvalue() == ""


class Tables(nn.Module):
    """A large table, a small table, a large bag, and a large table that is also read as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Embedding(50, 4)
        self.small = nn.Embedding(5, 4)
        self.bag = nn.EmbeddingBag(50, 4, mode="sum")
        self.largest = nn.EmbeddingBag(50, 4, mode="max")
        self.whole = nn.Embedding(50, 4)
        self.one = nn.Embedding(50, 4)
        self.twin = nn.Embedding(50, 4)
        self.twin.weight = self.one.weight

    def forward(self, ids: Tensor) -> Tensor:
        both = self.one(ids) + self.twin(ids)
        bags = self.bag(ids[:, None]) + self.largest(ids[:, None])
        looked_up = self.large(ids) + self.small(ids % 5) + bags + self.whole(ids) + both
        return (looked_up @ self.whole.weight.T).square().mean()


def test_large_tables_get_sparse_gradients_while_training() -> None:
    torch.manual_seed(0)
    model = Tables()
    ids = torch.tensor([1, 7, 7])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with sparse_gradients(model, min_rows=50):
        optimizer = TableAdam(model, 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(ids).backward()
            sparse = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.is_sparse}
            optimizer.step()
    assert sparse == {"large.weight", "bag.weight"}
    for name, p in model.named_parameters():
        changed = (p != before[name]).any(1).nonzero().flatten().tolist()
        if name == "whole.weight":
            assert changed == list(range(50))
        else:
            assert changed == ([1, 2] if name == "small.weight" else [1, 7])
    assert not any(m.sparse for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))


def test_sparse_and_dense_adam_agree_where_every_row_is_looked_up() -> None:
    results = []
    for min_rows in (1, 100):
        torch.manual_seed(0)
        model = nn.Embedding(6, 3)
        with sparse_gradients(model, min_rows):
            optimizer = TableAdam(model, 0.1)
            for _ in range(5):
                optimizer.zero_grad()
                model(torch.arange(6)).square().sum().backward()
                optimizer.step()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)


def test_tables_the_user_made_sparse_stay_so() -> None:
    model = nn.ModuleList([nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2, sparse=True)])
    with sparse_gradients(model):
        optimizer = TableAdam(model, 0.1)
        model[0](torch.tensor([1])).sum().backward()  # the second table is not used at first
        optimizer.step()
        optimizer.zero_grad()
        sum(table(torch.tensor([2])).sum() for table in model).backward()
        optimizer.step()
    assert all(table.sparse for table in model)


class Deep(nn.Module):
    """A lookup, a concatenation and an MLP, which suffice to learn real clicks."""

    def __init__(self, data: CtrData, dim: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, dim) for n in data.cardinalities)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        self.top = nn.Sequential(
            nn.Linear(data.n_dense + dim * data.n_fields, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1)
        )

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        found = [table(sparse[:, field]) for field, table in enumerate(self.tables)]
        return self.top(torch.cat([dense, *found], 1))


def test_real_clicks_are_learned_within_a_time_budget(data_dir: Path) -> None:
    torch.manual_seed(0)
    data = load_ctr(data_dir)
    model = Deep(data)
    log = train_ctr(model, data, epochs=1, seconds=60)
    figures = evaluate_ctr(model, data.test)
    assert log.seconds < 70
    assert figures.rows == 13_714
    assert 0.74 < figures.auc < 0.80
    assert 0.80 < figures.normalized_entropy < 0.90
    assert log.scores[0] == pytest.approx(evaluate_ctr(model, data.valid).auc)


class Matrix(nn.Module):
    """Matrix factorisation over users, items, and the mean of the history."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user = nn.Embedding(users, 8)
        self.item = nn.Embedding(items + 1, 8)
        self.bias = nn.Embedding(items + 1, 1)
        for table in (self.user, self.item, self.bias):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor, history: Tensor) -> Tensor:
        seen = (history > 0).unsqueeze(2)
        mean = (self.item(history) * seen).sum(1) / seen.sum(1).clamp(min=1)
        return ((self.user(user) + mean) * self.item(item)).sum(1) + self.bias(item)[:, 0]


def test_planted_preferences_are_learned() -> None:
    torch.manual_seed(0)
    data = clicks(synthetic_feedback(users=500, items=200, factors=3, per_user=80), history=10)
    model = Matrix(data.n_users, data.n_items)
    before = evaluate_ctr(model, data.test).auc
    train_ctr(model, data, epochs=8, batch_size=256, lr=1e-2, progress=False)
    assert before < 0.55
    assert evaluate_ctr(model, data.test).auc > 0.72


def tiny(n: int = 10) -> CtrSplit:
    return CtrSplit(torch.randn(n, 2), torch.zeros(n, 1, dtype=torch.int64), (torch.arange(n) % 2).float())


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.frozen = nn.Dropout(0.9).eval()

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        return self.head(self.frozen(dense))


def test_predict_is_in_order_and_puts_every_module_back() -> None:
    split, model = tiny(), TwoHeads()
    model.frozen.eval()
    logits = predict(model, split, batch_size=3, forward=lambda m, dense, sparse: m(dense, sparse)[:, 1])
    torch.testing.assert_close(logits, model.head(split.dense)[:, 1].detach())
    assert model.training
    assert not model.frozen.training
    by_callable = predict(lambda dense, sparse: dense.sum(1, keepdim=True), split, batch_size=4)
    torch.testing.assert_close(by_callable, split.dense.sum(1))


def test_a_model_with_other_outputs_is_an_error_that_says_what_to_do() -> None:
    split = tiny()
    with pytest.raises(InputError, match=r"gives \[10, 2\] for 10 rows(.|\n)*forward="):
        predict(TwoHeads(), split)
    with pytest.raises(InputError, match="gives tuple"):
        predict(lambda dense, sparse: (dense, sparse), split)
    data = CtrData(split, split, split, (1,))
    with pytest.raises(InputError, match="one logit a row"):
        train_ctr(TwoHeads(), data)
    log = train_ctr(TwoHeads(), data, epochs=1, forward=lambda m, dense, sparse: m(dense, sparse)[:, 0])
    assert log.steps == 1
