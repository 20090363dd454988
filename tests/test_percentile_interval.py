"""Percentile intervals of random draws."""

from __future__ import annotations

import numpy as np
import pytest

from recfx.bootstrap import percentile_interval


def test_it_holds_the_middle_share_of_the_draws() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert percentile_interval(draws, 0.9) == pytest.approx((50.0, 950.0))
    assert percentile_interval(draws) == pytest.approx((25.0, 975.0))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, float("nan")])
def test_confidences_that_are_no_share_are_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_interval(np.zeros(3), confidence)
