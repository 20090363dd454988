"""Bootstrap intervals of the AUC, and of the difference of two models' AUC on the same rows.

The bootstrap is stratified: positives and negatives are resampled separately, so every resample has both classes. The
scores of each model are sorted once. A resample is then a vector of counts, and its AUC takes a cumulative sum and a dot
product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recfx.bootstrap import percentile_interval
from recfx.data.metrics import Values, auc, checked
from recfx.errors import DataError

_BLOCK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval.

    Attributes:
        estimate: The value on the given rows.
        low: Lower end.
        high: Upper end.
        confidence: The probability that such an interval contains the true value.
    """

    estimate: float
    low: float
    high: float
    confidence: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.estimate:.5f} [{self.low:.5f}, {self.high:.5f}]"


def auc_interval(
    label: Values, score: Values, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The AUC with a percentile bootstrap interval.

    Args:
        label: 0 or 1, [N].
        score: Scores on any real scale, [N].
        confidence: Between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        DataError: The arguments are errors for `auc`, or `confidence` or `resamples` is out of range.
    """
    estimate = auc(label, score)
    labels, scores = checked(label, score)
    model = _Ranked(scores[labels], scores[~labels])
    draws = [model.auc(*counts) for counts in _resamples(labels, resamples, seed)]
    return _percentiles(estimate, np.concatenate(draws), confidence)


def auc_difference(
    label: Values,
    score_a: Values,
    score_b: Values,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The AUC of b minus the AUC of a, with a paired bootstrap interval: both are measured on the same resamples.

    Pairing removes the noise that both models share, so the interval is far narrower than two separate intervals suggest.

    Args:
        label: 0 or 1, [N].
        score_a: Scores of the first model (the reference), [N].
        score_b: Scores of the second model, [N].
        confidence: Between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        DataError: The arguments are errors for `auc`, or `confidence` or `resamples` is out of range.
    """
    estimate = auc(label, score_b) - auc(label, score_a)
    labels, first = checked(label, score_a)
    _, second = checked(label, score_b)
    a, b = (_Ranked(scores[labels], scores[~labels]) for scores in (first, second))
    draws = [b.auc(*counts) - a.auc(*counts) for counts in _resamples(labels, resamples, seed)]
    return _percentiles(estimate, np.concatenate(draws), confidence)


Counts = NDArray[np.int64]


class _Ranked:
    """A model's scores, sorted once so that resampled AUCs are cheap."""

    def __init__(self, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> None:
        self._order = np.argsort(negative, kind="stable")
        ordered = negative[self._order]
        self._below = np.searchsorted(ordered, positive, side="left")
        self._up_to = np.searchsorted(ordered, positive, side="right")

    def auc(self, positive: Counts, negative: Counts) -> NDArray[np.float64]:
        """The AUC [B] of B resamples, from the draw counts of the positives [B, P] and the negatives [B, N]."""
        beaten = np.zeros((len(negative), negative.shape[1] + 1), np.int64)
        np.cumsum(negative[:, self._order], axis=1, out=beaten[:, 1:])
        won = np.einsum("bp,bp->b", positive, beaten[:, self._below] + beaten[:, self._up_to])
        result: NDArray[np.float64] = won / (2.0 * positive.shape[1] * negative.shape[1])
        return result


def _resamples(labels: NDArray[np.bool_], resamples: int, seed: int) -> Iterator[tuple[Counts, Counts]]:
    """Yields blocks of resamples, as draw counts of the positives and of the negatives."""
    if resamples < 1:
        raise DataError(f"resamples must be at least 1, got {resamples}", hint="pass 1 or more")
    rng = np.random.default_rng(seed)
    positives = int(labels.sum())
    block = max(1, _BLOCK_ELEMENTS // len(labels))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield _draw_counts(rng, size, positives), _draw_counts(rng, size, len(labels) - positives)


def _draw_counts(rng: np.random.Generator, resamples: int, n: int) -> Counts:
    drawn = rng.integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)


def _percentiles(estimate: float, draws: NDArray[np.float64], confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise DataError(f"confidence must be between 0 and 1, got {confidence}", hint="pass a number such as 0.9")
    return Interval(estimate, *percentile_interval(draws, confidence), confidence)
