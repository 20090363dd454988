"""Metrics of rows: values, drops, and data that they refuse."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recfx
from recfx.data import CtrRecipe, auc, auc_difference, log_loss, synthetic_ctr
from recfx.errors import DataError, InputError

N = 400
SCORES = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
LABEL = (SCORES[:, 0] + torch.randn(N, generator=torch.Generator().manual_seed(1)) > 0).float()


def data(label: Tensor = LABEL, scores: Tensor = SCORES) -> list[Any]:
    return list(zip(scores.split(64), label.split(64), strict=True))


def column(number: int) -> Callable[[Tensor], Tensor]:
    return lambda scores: scores[:, number]


def test_the_auc_of_all_rows() -> None:
    assert recfx.AUC(data())(column(0)) == pytest.approx(auc(LABEL, SCORES[:, 0]))


def test_the_drop_of_a_part_is_that_of_its_rows() -> None:
    metric = recfx.AUC(data(), seed=3)
    part = metric.certificate
    before, after = (metric.scores(column(c), part) for c in (0, 1))
    known = auc_difference(part.labels, before, after, seed=3)
    drop = metric.drop(part, before, after, 0.95, 1000)
    assert drop.estimate == -known.estimate
    assert drop.interval == (-known.high, -known.low)


def test_the_log_loss_of_logits_and_of_probabilities() -> None:
    logits = recfx.LogLoss(data())
    chances = recfx.LogLoss(data(), from_logits=False)
    assert logits(column(0)) == pytest.approx(-log_loss(LABEL, SCORES[:, 0], from_logits=True))
    assert chances(lambda scores: scores[:, 0].sigmoid()) == pytest.approx(logits(column(0)))
    for metric, form in ((logits, lambda x: x), (chances, torch.sigmoid)):
        part = metric.choice
        before, after = (metric.scores(lambda scores, c=c, form=form: form(scores[:, c]), part) for c in (0, 1))
        drop = metric.drop(part, before, after, 0.95, 200)
        assert drop.estimate == pytest.approx(metric.value(part.labels, before) - metric.value(part.labels, after))
        assert drop.interval is not None
        assert drop.interval[0] < drop.estimate < drop.interval[1]


def test_a_metric_of_ones_own() -> None:
    def accuracy(labels: Any, scores: Any) -> float:
        return float(((scores > 0) == (labels > 0.5)).mean())

    metric = recfx.RowMetric(data(), accuracy)
    assert metric.name == "accuracy"
    drop = metric.drop(metric.choice, *(metric.scores(column(c), metric.choice) for c in (0, 1)), 0.9, 100)
    assert drop.interval is not None
    assert drop.interval[0] < drop.estimate < drop.interval[1]


def test_forward_picks_a_score() -> None:
    metric = recfx.AUC(data(), forward=lambda model, scores: model(scores)[1])
    assert metric(lambda scores: ("unused", scores[:, 0])) == pytest.approx(auc(LABEL, SCORES[:, 0]))


def test_splits_of_the_data_room_are_data() -> None:
    split = synthetic_ctr(CtrRecipe(rows=400)).valid
    assert 0 <= recfx.AUC(split)(lambda dense, sparse: dense[:, 0]) <= 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: recfx.AUC(data(torch.zeros(N))), "all .* labels are 0"),
        (lambda: recfx.AUC(data(torch.ones(N))), "all .* labels are 1"),
        (lambda: recfx.AUC(data(LABEL * 2)), "labels must be 0 or 1"),
        (lambda: recfx.AUC(data(torch.full((N,), torch.nan))), "labels are NaN"),
        (lambda: recfx.LogLoss(data(LABEL - 1)), "labels must be 0 or 1"),
        (lambda: recfx.RowMetric(data(torch.full((N,), torch.nan)), max), "labels are NaN"),
    ],
)
def test_labels_that_a_metric_refuses(make: Callable[[], object], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        make()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        (lambda scores: scores, InputError, "400 scores for 200 rows"),
        (lambda scores: [scores], InputError, "gives list"),
        (lambda scores: scores[:, 0] / 0 * 0, DataError, "200 of 200 scores are NaN"),
    ],
)
def test_scores_that_a_metric_refuses(model: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        recfx.AUC(data())(model)


@pytest.mark.parametrize("choice", [0.0, 1.0, -1, float("nan")])
def test_a_share_out_of_range_is_an_error(choice: float) -> None:
    with pytest.raises(InputError, match="choice="):
        recfx.AUC(data(), choice=choice)


def claims(runs: int, rows: int, seed: int) -> int:
    """How many of some runs on fresh data claim that the budget is met, when the true drop is exactly the budget.

    Scores are normal: the first model's AUC is F(m / sqrt(2)), and that of the second one, with noise of variance v, F(m / sqrt(2 + v)).
    """
    normal = NormalDist()
    mean, variance = 1.2, 0.05
    budget = normal.cdf(mean / 2**0.5) - normal.cdf(mean / (2 + variance) ** 0.5)
    rng = np.random.default_rng(seed)
    claimed = 0
    for run in range(runs):
        labels = rng.random(rows) < 0.3
        first = rng.normal(size=rows) + mean * labels
        second = first + rng.normal(size=rows) * variance**0.5
        # The error of the second model is noise of its own, so its variance is that of both parts.
        batch = (torch.tensor(np.stack([first, second], 1)), torch.tensor(labels).float())
        metric = recfx.AUC([batch], seed=run)
        before, after = (metric.scores(column(c), metric.certificate) for c in (0, 1))
        claimed += metric.drop(metric.certificate, before, after, 0.95, 400).within(budget)
    return claimed


def test_few_runs_with_a_drop_on_the_budget_claim_that_it_is_met() -> None:
    assert claims(100, 2000, seed=0) <= 5


@pytest.mark.slow
def test_at_most_one_in_twenty_claims_in_many_runs() -> None:
    assert claims(1000, 2000, seed=1) <= 50
