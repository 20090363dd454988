"""AUC, expected AUC, log loss and normalised entropy against scikit-learn and their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import auc, expected_auc, log_loss, normalized_entropy
from recfx.errors import DataError

sklearn_metrics = pytest.importorskip("sklearn.metrics")

# Few distinct values, so that ties are common; and any finite float.
score = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]) | st.floats(allow_nan=False, allow_infinity=False)
labelled = st.lists(st.tuples(st.booleans(), score), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)
probability = st.floats(0, 1)


@given(labelled)
def test_auc_is_the_share_of_rightly_ordered_pairs(rows: list[tuple[bool, float]]) -> None:
    label, scores = zip(*rows, strict=True)
    positive = [s for y, s in rows if y]
    negative = [s for y, s in rows if not y]
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auc(label, scores) == won / (len(positive) * len(negative))


@given(st.integers(0, 2**32 - 1), st.integers(20, 2000), st.integers(1, 50))
def test_auc_is_scikit_learns(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    label[:2] = 0, 1
    scores = rng.integers(0, levels, n) / levels + label * 0.1
    assert auc(label, scores) == pytest.approx(sklearn_metrics.roc_auc_score(label, scores), abs=1e-12)
    assert auc(torch.tensor(label), torch.tensor(scores)[:, None]) == auc(label, scores)


def test_auc_keeps_the_order_of_close_float32_scores_and_of_infinities() -> None:
    close = torch.tensor([1.0, 1.0 + 2**-23, -torch.inf, torch.inf])
    assert auc([0, 1, 0, 1], close) == 1.0
    assert auc([1, 0, 1, 0], close) == 0.0


@given(st.lists(probability, min_size=2, max_size=7))
def test_expected_auc_by_brute_force(p: list[float]) -> None:
    won, pairs = 0.0, 0.0
    for i, j in itertools.permutations(range(len(p)), 2):
        weight = p[i] * (1 - p[j])
        won += weight * ((p[i] > p[j]) + 0.5 * (p[i] == p[j]))
        pairs += weight
    if pairs > 1e-6:
        assert expected_auc(p) == pytest.approx(won / pairs, abs=1e-6)


def test_expected_auc_is_what_drawn_labels_give() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(1, 3, 3000)
    drawn = [auc(rng.random(3000) < p, p) for _ in range(40)]
    assert np.mean(drawn) == pytest.approx(expected_auc(p), abs=4 * np.std(drawn) / math.sqrt(40))


@pytest.mark.parametrize("p", [[1.0, 1.0], [0.0, 0.0, 0.0], [0.5, math.nan], [0.5, 1.5], [-0.1, 0.5]])
def test_expected_auc_refuses(p: list[float]) -> None:
    with pytest.raises(DataError, match="probabilities"):
        expected_auc(p)


@given(st.lists(st.tuples(st.booleans(), probability), min_size=1, max_size=50))
def test_log_loss_is_scikit_learns(rows: list[tuple[bool, float]]) -> None:
    label, p = map(np.array, zip(*rows, strict=True))
    assert log_loss(label, p) == pytest.approx(sklearn_metrics.log_loss(label, p, labels=[0, 1]), rel=1e-9, abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.floats(-30, 30)), min_size=1, max_size=50))
def test_log_loss_of_logits_is_that_of_probabilities(rows: list[tuple[bool, float]]) -> None:
    label, logit = map(np.array, zip(*rows, strict=True))
    p = 1 / (1 + np.exp(-logit))
    assert log_loss(label, logit, from_logits=True) == pytest.approx(log_loss(label, p), rel=1e-3, abs=1e-9)


def test_log_loss_of_extreme_logits_is_finite_and_right() -> None:
    assert log_loss([1, 0], [-1e4, 1e4], from_logits=True) == 1e4
    assert log_loss([1, 0], [1e4, -1e4], from_logits=True) == 0.0


def test_normalized_entropy_is_one_at_the_base_rate_and_below_for_better() -> None:
    label = np.array([1, 0, 0, 0])
    assert normalized_entropy(label, np.full(4, 0.25)) == pytest.approx(1.0)
    assert normalized_entropy(label, [0.7, 0.1, 0.1, 0.1]) < 1
    assert normalized_entropy(label, [0.1, 0.7, 0.1, 0.1]) > 1
    logit = math.log(0.25 / 0.75)
    assert normalized_entropy(label, [logit] * 4, from_logits=True) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [auc, log_loss, normalized_entropy])
@pytest.mark.parametrize(
    ("label", "scores", "message"),
    [
        ([0, 1], [0.5, math.nan], "1 of 2 scores are NaN, the first in row 1"),
        ([0, 2], [0.5, 0.5], "labels must be 0 or 1, row 1 has 2"),
        ([0, math.nan], [0.5, 0.5], "labels must be 0 or 1"),
        ([0, 1, 1], [0.5, 0.5], "3 labels for 2 scores"),
        ([], [], "no rows"),
    ],
)
def test_bad_input_is_named(metric: object, label: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        metric(label, scores)  # type: ignore[operator]


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1]])
def test_one_class_only(label: list[int]) -> None:
    for metric in (auc, normalized_entropy):
        with pytest.raises(DataError, match=f"all 3 labels are {label[0]}"):
            metric(label, [0.1, 0.2, 0.3])
    assert log_loss(label, [0.5, 0.5, 0.5]) == pytest.approx(math.log(2))


def test_logits_given_as_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="from_logits"):
        log_loss([0, 1], [-1.0, 2.0])


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(DataError, match="expected numbers, got a list") as caught:
        auc(["yes", "no"], [0.3, 0.1])
    assert caught.value.hint
