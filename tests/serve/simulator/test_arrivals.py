"""Arrivals: ascending, within the time, at the wanted rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.errors import InputError
from recfx.serve.simulator import Arrivals, Diurnal, FlashCrowd, Poisson, RateTrace, RecordedTimes

PROCESSES: list[Arrivals] = [
    Poisson(400.0),
    Diurnal(400.0, swing=0.8, period=10.0),
    FlashCrowd(200.0, factor=4.0, begin=3.0, length=4.0),
    RateTrace(((0.0, 100.0), (5.0, 600.0), (10.0, 0.0))),
    RecordedTimes(tuple(i / 100 for i in range(2000))),
]
names = [type(process).__name__ for process in PROCESSES]


def drawn(process: Arrivals, seconds: float = 10.0, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(process.blocks(seconds, np.random.default_rng(seed))))


@pytest.mark.parametrize("process", PROCESSES, ids=names)
def test_times_ascend_within_the_simulated_time(process: Arrivals) -> None:
    times = drawn(process)
    assert (np.diff(times) >= 0.0).all()
    assert times[0] >= 0.0
    assert times[-1] < 10.0
    assert (drawn(process) == times).all()


@pytest.mark.parametrize("process", PROCESSES, ids=names)
def test_the_number_of_requests_is_that_of_the_rate(process: Arrivals) -> None:
    expected = process.mean_rate(10.0) * 10.0
    assert abs(len(drawn(process)) - expected) < 5.0 * math.sqrt(expected)
    more = process.scaled(3.0)
    if not isinstance(process, RecordedTimes):  # those are compressed, and end earlier
        assert more.mean_rate(10.0) == pytest.approx(3.0 * process.mean_rate(10.0))
        assert abs(len(drawn(more)) - 3.0 * expected) < 5.0 * math.sqrt(3.0 * expected)


def test_recorded_times_are_kept() -> None:
    process = RecordedTimes((0.5, 0.5, 2.0, 7.0))
    assert drawn(process, 5.0).tolist() == [0.5, 0.5, 2.0]
    assert process.scaled(2.0).times == (0.25, 0.25, 1.0, 3.5)
    assert process.mean_rate(5.0) == pytest.approx(0.6)


@pytest.mark.parametrize("process", PROCESSES[:-1], ids=names[:-1])
def test_the_rate_varies_as_it_should(process: Arrivals) -> None:
    counts, _ = np.histogram(drawn(process, seed=3), bins=10, range=(0.0, 10.0))
    for second, count in enumerate(counts):
        times = np.linspace(second, second + 1, 101)
        expected = float(process.rates(times).mean())  # type: ignore[attr-defined]
        assert abs(count - expected) < 5.0 * math.sqrt(expected) + 5.0


@given(st.floats(1.0, 1e5), st.floats(0.0, 1.0), st.lists(st.floats(0.0, 1e5), min_size=1, max_size=20))
def test_no_rate_is_above_the_peak(rate: float, swing: float, times: list[float]) -> None:
    for process in (Poisson(rate), Diurnal(rate, swing, 100.0), FlashCrowd(rate, 0.5), FlashCrowd(rate, 5.0)):
        rates = process.rates(np.asarray(times))
        assert (rates <= process.peak * (1 + 1e-12)).all()
        assert (rates >= 0.0).all()


def test_gaps_of_a_poisson_process_vary_as_much_as_their_mean() -> None:
    gaps = np.diff(drawn(Poisson(1000.0)))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Poisson(0.0), "rate is 0.0"),
        (lambda: Poisson(math.inf), "rate is inf"),
        (lambda: Diurnal(1.0, swing=1.5), "swing is 1.5"),
        (lambda: Diurnal(1.0, period=0.0), "period is 0.0"),
        (lambda: FlashCrowd(1.0, factor=-1.0), "factor is -1.0"),
        (lambda: FlashCrowd(1.0, begin=math.nan), "begin is nan"),
        (lambda: RateTrace(()), "trace of rates"),
        (lambda: RateTrace(((0.0, 1.0), (0.0, 2.0))), "ascending"),
        (lambda: RateTrace(((0.0, 0.0),)), "all rates of the trace are 0"),
        (lambda: RateTrace(((0.0, -1.0),)), "at least 0"),
        (lambda: RecordedTimes(()), "recorded times"),
        (lambda: RecordedTimes((2.0, 1.0)), "not ascending"),
        (lambda: RecordedTimes((-1.0, 1.0)), "from 0 on"),
        (lambda: RecordedTimes((math.nan,)), "recorded times"),
    ],
)
def test_processes_that_cannot_be(make: Callable[[], Arrivals], part: str) -> None:
    with pytest.raises(InputError, match=part):
        make()


def test_a_long_process_comes_in_several_blocks() -> None:
    blocks = list(Poisson(50_000.0).blocks(5.0, np.random.default_rng(0)))
    assert len(blocks) > 2
    assert all(first[-1] <= second[0] for first, second in pairwise(block for block in blocks if len(block)))
