"""Percentile intervals of bootstrap draws (Efron and Tibshirani 1993, section 13.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def percentile_interval(draws: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """The interval that holds the middle share of the draws.

    Args:
        draws: The statistic of each resample, [resamples].
        confidence: The share, between 0 and 1.

    Raises:
        ValueError: The confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
