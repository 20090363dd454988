"""Fitted weights: known weights are recovered, the prior holds where nothing was measured, and intervals contain the prediction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.cost.fit import Sample, Weights, fit
from recfx.cost.priors import prior

NAMES = ("a.operators", "a.memory", "b.fp32", "b.weights")


def samples(weights: dict[str, float], call: float, count: int, seed: int, noise: float = 0.0) -> list[Sample]:
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        columns = {name: float(10 ** draw.uniform(-7, -3)) for name in NAMES if draw.random() < 0.7}
        seconds = call + sum(weights[name] * value for name, value in columns.items())
        made.append(Sample(columns, seconds * math.exp(noise * draw.normal())))
    return made


@given(
    values=st.lists(st.floats(0.3, 6), min_size=4, max_size=4),
    call=st.floats(5e-7, 1e-5),
    seed=st.integers(0, 2**16),
)
def test_known_weights_predict_other_regions(values: list[float], call: float, seed: int) -> None:
    truth = dict(zip(NAMES, values, strict=True))
    found = fit(samples(truth, call, 60, seed), Weights({}))
    for sample in samples(truth, call, 10, seed + 1):
        predicted = found.predict(sample.columns) + found.call()
        assert predicted.seconds == pytest.approx(sample.seconds, rel=0.25)


@given(
    count=st.integers(0, 12),
    seed=st.integers(0, 2**16),
    noise=st.floats(0, 2),
    backend=st.sampled_from(["native", "x"]),
)
def test_weights_are_never_negative_and_intervals_hold_the_prediction(
    count: int, seed: int, noise: float, backend: str
) -> None:
    found = fit(samples(dict.fromkeys(NAMES, 1.0), 1e-6, count, seed, noise), prior(backend))
    assert all(0 <= value < math.inf for value in found.of.values())
    low, high = found.spread
    assert 0 < low <= 1 <= high < math.inf
    estimate = found.predict({"a.memory": 1e-5, "never seen": 1e-5})
    assert 0 <= estimate.low <= estimate.seconds <= estimate.high


def test_the_interval_narrows_with_exact_measurements() -> None:
    truth = dict.fromkeys(NAMES, 2.0)
    few, many = (fit(samples(truth, 1e-6, count, 0), Weights({})).spread for count in (3, 100))
    assert few[0] < many[0] <= 1 <= many[1] < few[1]


def test_columns_without_measurement_keep_the_prior() -> None:
    known = Weights({"a.memory": 3.0, "rare": 7.0, "call": 2e-6}, default=1.5)
    found = fit([Sample({"a.memory": 1e-4}, 6e-4)] * 40, known)
    assert found.weight("rare") == pytest.approx(7.0)
    assert found.weight("never seen") == 1.5
    assert found.weight("a.memory") == pytest.approx(6.0, rel=0.05)
    assert fit([], known) is known


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_times_that_are_none_are_left_out(seconds: float) -> None:
    known = Weights({"a.memory": 3.0})
    assert fit([Sample({"a.memory": 1.0}, seconds)], known) is known


def test_one_disturbed_measurement_hardly_counts() -> None:
    truth = dict.fromkeys(NAMES, 1.0)
    clean = samples(truth, 1e-6, 60, 0)
    disturbed = [*clean, Sample(clean[0].columns, clean[0].seconds * 50)]
    found = fit(disturbed, Weights({}))
    errors = [abs((found.predict(s.columns) + found.call()).seconds / s.seconds - 1) for s in clean]
    assert np.median(errors) < 0.2
