"""The weights of the columns of `recfx.cost.roofline` for one backend, fitted to measured regions, with their uncertainty."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from recfx.cost.estimate import Estimate
from recfx.cost.least_squares import Array, nonnegative_least_squares
from recfx.cost.roofline import CALL, Columns

#: How much the prior counts: a weight that is wrong by its own size costs as much as this many measured regions that are wrong by 100 %.
_PRIOR_STRENGTH = 0.01
#: The interval holds this share of the measured regions that were left out of the fit.
_INSIDE = 0.9
#: The spread of predictions without any measurement, as a factor, and how many measured regions it counts as.
_PRIOR_SPREAD = 2.5
_PRIOR_COUNT = 8
#: Regions of other models vary this many times as much, in logarithms, as those that were left out of the fit.
_WIDER = 1.5
#: Parts of the measured regions that are left out in turn, to see how far predictions of other regions are off.
_FOLDS = 8


@dataclasses.dataclass(frozen=True)
class Sample:
    """A measured region.

    Attributes:
        columns: Its columns, without the call.
        seconds: The time of one call of the region alone.
    """

    columns: Columns
    seconds: float


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a backend's columns.

    Attributes:
        of: Column -> weight. A column without an entry has the weight `default`.
        default: The weight of other columns.
        spread: Factors (low, high) of the interval of a prediction.
    """

    of: Mapping[str, float]
    default: float = 1.0
    spread: tuple[float, float] = (1 / _PRIOR_SPREAD, _PRIOR_SPREAD)

    def weight(self, column: str) -> float:
        """The weight of a column."""
        return self.of.get(column, self.default)

    def call(self) -> Estimate:
        """The cost of one call of a region without work."""
        return self._spread(self.of.get(CALL, 1e-6))

    def predict(self, columns: Columns) -> Estimate:
        """The time of a region without its call."""
        return self._spread(sum(self.weight(name) * value for name, value in columns.items()))

    def _spread(self, seconds: float) -> Estimate:
        low, high = self.spread
        return Estimate(seconds, seconds * min(low, 1.0), seconds * max(high, 1.0))


def fit(samples: Sequence[Sample], prior: Weights) -> Weights:
    """Fits the weights to measured regions by non-negative least squares of the relative errors.

    Every weight is drawn towards the prior, so that columns without a measured region keep its weights.

    Args:
        samples: The measured regions; those without a positive time are left out.
        prior: The weights without measurements.
    """
    usable = [s for s in samples if 0 < s.seconds < math.inf]
    if not usable:
        return prior
    names = sorted({CALL, *prior.of, *(name for sample in usable for name in sample.columns)})
    at = {name: index for index, name in enumerate(names)}
    scale = np.array([max(prior.call().seconds if n == CALL else prior.weight(n), 1e-12) for n in names])
    design = np.zeros((len(usable) + len(names), len(names)))
    target = np.ones(len(usable) + len(names))
    for row, sample in enumerate(usable):
        for name, value in {**sample.columns, CALL: 1.0}.items():
            design[row, at[name]] = value * scale[at[name]] / sample.seconds
    strength = math.sqrt(_PRIOR_STRENGTH)
    design[len(usable) :] = strength * np.eye(len(names))
    target[len(usable) :] = strength
    # One more pass with weights 1 / predicted damps regions whose time was disturbed: an error upwards has no bound, one downwards has.
    found = nonnegative_least_squares(design, target, np.ones(len(names)))
    balanced = _balanced(design, target, found, len(usable))
    found = nonnegative_least_squares(*balanced, np.ones(len(names)))
    spread = _spread(_left_out(design, balanced, found, len(usable)))
    return Weights(dict(zip(names, (found * scale).tolist(), strict=True)), prior.default, spread)


def _balanced(design: Array, target: Array, found: Array, rows: int) -> tuple[Array, Array]:
    """The equations divided by the square root of predicted / measured, which treats factors up and down alike."""
    ratio = np.clip(design[:rows] @ found, 1 / 3, 3.0)
    factor = np.concatenate([1 / np.sqrt(ratio), np.ones(len(target) - rows)])
    return design * factor[:, None], target * factor


def _left_out(design: Array, balanced: tuple[Array, Array], found: Array, rows: int) -> Array:
    """Predicted / measured of each region by weights fitted to other regions.

    Regions that were measured one after another are left out together, since they are those of one model.
    """
    matrix, target = balanced
    predicted = np.empty(rows)
    for fold in np.array_split(np.arange(rows), min(_FOLDS, rows)):
        kept = np.delete(np.arange(len(target)), fold)
        others = nonnegative_least_squares(matrix[kept], target[kept], np.maximum(found, 1e-3))
        predicted[fold] = design[fold] @ others
    return predicted


def _spread(predicted: Array) -> tuple[float, float]:
    """Quantiles of measured / predicted, mixed with those of the prior by their numbers."""
    logs = -np.log(np.maximum(predicted, 1e-6))
    low, high = np.quantile(logs, [(1 - _INSIDE) / 2, (1 + _INSIDE) / 2])
    share, wide = _PRIOR_COUNT / (len(logs) + _PRIOR_COUNT), math.log(_PRIOR_SPREAD)
    return (
        math.exp(min(0.0, (1 - share) * _WIDER * float(low) - share * wide)),
        math.exp(max(0.0, (1 - share) * _WIDER * float(high) + share * wide)),
    )
