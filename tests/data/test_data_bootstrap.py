"""Bootstrap intervals: each resample by its definition, coverage, pairing, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import auc, auc_difference, auc_interval, bootstrap
from recfx.errors import DataError


def scored(n: int, rng: np.random.Generator, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    label = rng.random(n) < 0.3
    label[:2] = False, True
    return label, rng.standard_normal(n) + shift * label


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 8), st.integers(1, 5))
def test_a_resample_is_the_auc_of_repeated_rows(seed: int, n: int, levels: int, resamples: int) -> None:
    rng = np.random.default_rng(seed)
    label, _ = scored(n, rng)
    scores = rng.integers(0, levels, n).astype(float)
    model = bootstrap._Ranked(scores[label], scores[~label])
    blocks = list(bootstrap._resamples(label, resamples, seed))
    for positive, negative in blocks:
        assert (positive.sum(1) == label.sum()).all()
        assert (negative.sum(1) == (~label).sum()).all()
        for measured, p, q in zip(model.auc(positive, negative), positive, negative, strict=True):
            repeated = np.concatenate([np.repeat(scores[label], p), np.repeat(scores[~label], q)])
            truth = np.repeat([True, False], [p.sum(), q.sum()])
            assert measured == pytest.approx(auc(truth, repeated), abs=1e-12)
    assert sum(len(positive) for positive, _ in blocks) == resamples


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says() -> None:
    truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    rng = np.random.default_rng(1)
    covered = sum(truth in auc_interval(*scored(400, rng), confidence=0.9, resamples=200, seed=i) for i in range(150))
    assert 120 <= covered <= 148  # 135 expected, standard deviation 3.7


def test_paired_intervals_are_narrow_for_models_that_agree() -> None:
    rng = np.random.default_rng(2)
    label, first = scored(3000, rng)
    second = first + 0.05 * rng.standard_normal(3000)
    difference = auc_difference(label, first, second, resamples=300)
    alone = auc_interval(label, first, resamples=300)
    assert difference.estimate == auc(label, second) - auc(label, first)
    assert difference.high - difference.low < (alone.high - alone.low) / 5
    assert difference.estimate in difference
    mirrored = auc_difference(label, second, first, resamples=300)
    assert (mirrored.low, mirrored.high) == pytest.approx((-difference.high, -difference.low))


def test_a_real_difference_excludes_zero_and_an_equal_model_has_none() -> None:
    rng = np.random.default_rng(3)
    label, first = scored(3000, rng)
    better = auc_difference(label, first, first + 0.5 * label, resamples=300)
    assert better.low > 0
    same = auc_difference(label, first, 2 * first + 1, resamples=50)
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_interval_and_block_size_does_not_bias_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label, scores = scored(500, np.random.default_rng(4))
    one = auc_interval(label, scores, seed=7)
    assert one == auc_interval(label, scores, seed=7)
    assert one != auc_interval(label, scores, seed=8)
    monkeypatch.setattr(bootstrap, "_BLOCK_ELEMENTS", 1)
    small = auc_interval(label, scores, seed=7)
    assert small.low == pytest.approx(one.low, abs=0.01)
    assert str(one).startswith(f"{one.estimate:.5f} [")


def test_more_confidence_is_wider() -> None:
    label, scores = scored(500, np.random.default_rng(5))
    narrow, wide = (auc_interval(label, scores, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_bad_input() -> None:
    with pytest.raises(DataError, match="NaN"):
        auc_interval([0, 1], [0.0, float("nan")])
    with pytest.raises(DataError, match="all 2 labels are 1"):
        auc_interval([1, 1], [0.0, 1.0])
    with pytest.raises(DataError, match="3 scores"):
        auc_difference([0, 1], [0.0, 1.0], [0.0, 1.0, 2.0])
    with pytest.raises(DataError, match="confidence"):
        auc_interval([0, 1], [0.0, 1.0], confidence=95)
    with pytest.raises(DataError, match="resamples"):
        auc_interval([0, 1], [0.0, 1.0], resamples=0)
