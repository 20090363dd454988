"""Intervals of ratios of medians and of other quantiles, from resampling the rounds of an interleaved measurement."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from recfx.bootstrap import percentile_interval

Samples = npt.NDArray[np.float64]

_RESAMPLES = 1000
_TAIL_RESAMPLES = 200
_BLOCKS = 200
_GRID = 4096
_CHUNK = 250


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio of two quantiles, by default medians, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (f"{x:.3f}" if 0.1 <= x < 100 else f"{x:.3g}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def paired_ratio(values: Samples, base: Samples, *, seed: int = 0, resamples: int = _RESAMPLES) -> Ratio:
    """The ratio of two medians, with the percentile bootstrap interval.

    Whole rounds are resampled, the same rounds for both, so that a disturbance of both cancels. If there are many rounds, runs of
    consecutive rounds stay together, because disturbances outlast a round.

    Args:
        values: Seconds [rounds, samples in a round].
        base: Seconds [rounds, samples in a round] of the candidate to compare with; the number of samples may differ.
        seed: Seed of the resampling.
        resamples: How often to resample.

    Returns:
        The median of `values` over that of `base`, and the interval.
    """
    rounds = len(values)
    blocks = min(rounds, _BLOCKS)
    block_of = np.arange(rounds) * blocks // rounds
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples).astype(np.float32)
    draws = _weighted_medians(values, block_of, weights) / _weighted_medians(base, block_of, weights)
    return Ratio(float(np.median(values) / np.median(base)), *percentile_interval(draws))


def paired_quantile_ratio(
    values: Samples, base: Samples, quantile: float, *, seed: int = 0, resamples: int = _TAIL_RESAMPLES
) -> Ratio:
    """The ratio of two quantiles, with the interval of `paired_ratio`.

    Args:
        values: Seconds [rounds, samples in a round].
        base: Seconds [rounds, samples in a round] of the candidate to compare with.
        quantile: Between 0 and 1; 0.99 is the time that one call in a hundred exceeds.
        seed: Seed of the resampling.
        resamples: How often to resample.
    """
    rounds = len(values)
    blocks = np.array_split(np.arange(rounds), min(rounds, _BLOCKS))
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        chosen = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
        draws.append(np.quantile(values[chosen], quantile) / np.quantile(base[chosen], quantile))
    value = np.quantile(values, quantile) / np.quantile(base, quantile)
    return Ratio(float(value), *percentile_interval(np.array(draws)))


def _weighted_medians(values: Samples, block_of: npt.NDArray[Any], weights: npt.NDArray[np.float32]) -> Samples:
    """Medians of resamples, [resamples]. Each resample takes each block as often as its row of `weights` says.

    Nothing is sorted: each block has a histogram over a grid of values, and a resample is a weighted sum of histograms. The grid holds
    every distinct value, or `_GRID` quantiles if there are more distinct values.
    """
    grid = np.unique(values)
    if len(grid) > _GRID:
        grid = np.unique(np.quantile(values, np.linspace(0, 1, _GRID)))
    codes = np.minimum(np.searchsorted(grid, values), len(grid) - 1)
    histograms = np.zeros((weights.shape[1], len(grid)), dtype=np.float32)
    np.add.at(histograms, (np.broadcast_to(block_of[:, None], codes.shape), codes), 1)
    medians = [_medians(grid, chunk @ histograms) for chunk in np.array_split(weights, max(1, len(weights) // _CHUNK))]
    return np.concatenate(medians)


def _medians(grid: Samples, counts: npt.NDArray[np.float32]) -> Samples:
    """The median of each row of counts over the grid: the mean of the two middle values where their number is even."""
    cumulated = np.cumsum(counts, axis=1, dtype=np.float64)
    total = cumulated[:, -1:]
    lower, upper = ((cumulated <= rank).sum(axis=1) for rank in (np.floor((total - 1) / 2), np.floor(total / 2)))
    middle: Samples = (grid[lower] + grid[upper]) / 2
    return middle
