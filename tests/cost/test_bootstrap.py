"""The paired interval against a simple implementation of sorting and resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.cost.bootstrap import paired_quantile_ratio, paired_ratio


def _plain_interval(values: np.ndarray, base: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    rounds = len(values)
    blocks = min(rounds, 200)
    parts = [np.flatnonzero(np.arange(rounds) * blocks // rounds == block) for block in range(blocks)]
    rng = np.random.default_rng(seed)
    draws = []
    for counts in rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples):
        rows = np.concatenate([parts[b] for b, times in enumerate(counts) for _ in range(times)])
        draws.append(np.median(values[rows]) / np.median(base[rows]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


@given(
    rounds=st.integers(1, 260),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    decimals=st.sampled_from([0, 1, 6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_counting_gives_what_sorting_gives(rounds: int, widths: tuple[int, int], decimals: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, base = (1 + np.round(rng.exponential(size=(rounds, width)), decimals) for width in widths)
    got = paired_ratio(values, base, seed=seed, resamples=40)
    assert got.value == pytest.approx(np.median(values) / np.median(base))
    assert (got.low, got.high) == pytest.approx(_plain_interval(values, base, seed, 40), rel=1e-6)


def test_many_samples_are_as_good_as_sorted() -> None:
    rng = np.random.default_rng(3)
    values, base = rng.lognormal(size=(4000, 8)), rng.lognormal(size=(4000, 8))
    got = paired_ratio(values, base, resamples=30)
    assert (got.low, got.high) == pytest.approx(_plain_interval(values, base, 0, 30), rel=2e-3)


def test_the_interval_of_a_quantile_holds_its_ratio_and_narrows() -> None:
    rng = np.random.default_rng(7)
    base = rng.lognormal(size=(4000, 4))
    values = np.where(rng.random(base.shape) < 0.03, 5.0, 1.0) * rng.permutation(base)
    many = paired_quantile_ratio(values, base, 0.99)
    few = paired_quantile_ratio(values[:400], base[:400], 0.99)
    assert many.value == pytest.approx(np.quantile(values, 0.99) / np.quantile(base, 0.99))
    assert 1.0 < many.low < many.value < many.high
    assert many.high - many.low < few.high - few.low
    same = paired_quantile_ratio(base, rng.permutation(base), 0.99)
    assert same.low < 1.0 < same.high


def test_shared_disturbances_cancel() -> None:
    rng = np.random.default_rng(5)
    shared = np.where(rng.random((100, 1)) < 0.5, 1.0, 3.0)
    ratio = paired_ratio(1.1 * shared, shared)
    assert (ratio.low, ratio.high) == pytest.approx((1.1, 1.1))
    unpaired = paired_ratio(1.1 * rng.permutation(shared), shared)
    assert unpaired.high - unpaired.low > 0.5


@pytest.mark.parametrize(
    ("factor", "text"), [(2.0, "2.000 [2.000, 2.000]"), (0.001, "0.001 [0.001, 0.001]"), (345.6, "346 [346, 346]")]
)
def test_text(factor: float, text: str) -> None:
    base = np.ones((3, 1))
    assert str(paired_ratio(factor * base, base)) == text
