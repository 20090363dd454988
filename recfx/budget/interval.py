"""Drops of a metric between two models on the same rows, with paired bootstrap intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recfx.bootstrap import percentile_interval

Values = NDArray[np.float64]
_BLOCK_ELEMENTS = 1 << 21
#: How probable it should be that a composition which fits on the rows for choices also keeps the budget on the certificate's.
LIKELY = 0.84


@dataclasses.dataclass(frozen=True)
class Drop:
    """How much lower a metric is.

    Attributes:
        estimate: The drop on the given rows.
        interval: The ends of its interval; None if rows are not known.
        confidence: The confidence of the interval.
    """

    estimate: float
    interval: tuple[float, float] | None
    confidence: float

    def within(self, budget: float) -> bool:
        """Whether the whole interval, or the estimate without an interval, is at most the budget."""
        return (self.estimate if self.interval is None else max(self.interval[1], self.estimate)) <= budget

    def cautious(self, ratio: float, confidence: float | None = None, likely: float = LIKELY) -> float | None:
        """The drop that a composition may have on the rows for choices, so that its certificate will probably hold.

        The certificate's estimate has an error of its own. With standard errors s here and t there, the certificate's upper end is about
        d + z t + sqrt(s^2 + t^2) u at most, where d is the estimate here, z belongs to the certificate's confidence, and u is the quantile
        of the probability `likely`.

        Args:
            ratio: Rows here over rows of the certificate.
            confidence: The confidence of the certificate; by default that of the interval here.
            likely: How probable it should be that the certificate holds.
        """
        if self.interval is None:
            return None
        here = (self.interval[1] - self.interval[0]) / (2 * _width(self.confidence))
        there = here * math.sqrt(ratio)
        certified = _width(self.confidence if confidence is None else confidence) * there
        return self.estimate + certified + NormalDist().inv_cdf(likely) * math.hypot(here, there)


def _width(confidence: float) -> float:
    """Half the width of an interval, in standard errors."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def mean_drop(before: Values, after: Values, confidence: float, resamples: int, seed: int) -> Drop:
    """The drop of a mean over rows, with an interval from resampled rows.

    Args:
        before: The value of each row for the first model, [N].
        after: The same for the second model, [N].
        confidence: Between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    lost = before - after
    draws = [lost[rows].mean(1) for rows in _drawn(len(lost), resamples, seed)]
    return Drop(float(lost.mean()), percentile_interval(np.concatenate(draws), confidence), confidence)


def function_drop(
    function: Callable[[Values, Values], float],
    labels: Values,
    before: Values,
    after: Values,
    confidence: float,
    resamples: int,
    seed: int,
) -> Drop:
    """The drop of any metric of labels and scores. If labels have two values, rows of each are resampled separately.

    Args:
        function: (labels [N], scores [N]) -> the metric, higher is better.
        labels: [N].
        before: Scores of the first model, [N].
        after: Scores of the second model, [N].
        confidence: Between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    values = np.unique(labels)
    strata = [np.flatnonzero(labels == value) for value in values] if len(values) == 2 else [np.arange(len(labels))]
    drawn = [np.concatenate(list(_drawn(len(rows), resamples, seed + i))) for i, rows in enumerate(strata)]
    draws = []
    for number in range(resamples):
        rows = np.concatenate([own[places[number]] for own, places in zip(strata, drawn, strict=True)])
        draws.append(function(labels[rows], before[rows]) - function(labels[rows], after[rows]))
    estimate = function(labels, before) - function(labels, after)
    return Drop(estimate, percentile_interval(np.array(draws), confidence), confidence)


def _drawn(rows: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Blocks of resamples, each as row numbers [B, rows]."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_ELEMENTS // rows)
    for start in range(0, resamples, block):
        yield generator.integers(0, rows, size=(min(block, resamples - start), rows))
