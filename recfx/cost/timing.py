"""The one timing engine: interleaved comparison of callables in one process.

Machines are shared and noisy, so absolute times say little. Candidates take turns, in a random order each round, and what is
reported is the ratio of medians with an interval from resampling the rounds.
"""

from __future__ import annotations

import dataclasses
import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recfx.errors import MeasureError

_SAMPLE_NS = 50_000
_WARM_UP = 3
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call of one candidate.

    Attributes:
        median: Median over all samples.
        p99: 99th percentile over all samples.
        best: Smallest sample.
        samples: How many samples were taken.
        calls_per_sample: Calls averaged in one sample; 1 when a call is long enough to be timed alone.
    """

    median: float
    p99: float
    best: float
    samples: int
    calls_per_sample: int


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio of medians and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Timings of all candidates, and their ratios to the baseline."""

    timings: dict[str, Timing]
    ratios: dict[str, Ratio]
    baseline: str
    threads: int
    rounds: dict[str, np.ndarray[Any, Any]] = dataclasses.field(repr=False, default_factory=dict)

    def slower(self, name: str, than: str) -> bool:
        """Whether a candidate is slower than another beyond doubt: the whole interval of their ratio lies above 1."""
        return self.ratio(name, than).low > 1.0

    def ratio(self, name: str, than: str) -> Ratio:
        """The ratio of the medians of two candidates."""
        return _ratio(self.rounds[name], self.rounds[than], seed=0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the single samples."""
        return {
            "baseline": self.baseline,
            "threads": self.threads,
            "timings": {name: dataclasses.asdict(t) for name, t in self.timings.items()},
            "ratios": {name: dataclasses.asdict(r) for name, r in self.ratios.items()},
        }


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    min_rounds: int = 15,
    baseline: str | None = None,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Comparison:
    """Times candidates in turns.

    Args:
        candidates: Name -> callable without arguments.
        seconds: How long to measure, for all candidates together; more when `min_rounds` takes longer.
        min_rounds: Rounds to run at least.
        baseline: The candidate the ratios refer to; by default the first.
        seed: Seed of the order in each round and of the intervals.
        clock: Nanoseconds; for tests.

    Raises:
        MeasureError: A candidate raised, there is none, or the baseline is unknown.
    """
    names = list(candidates)
    base = baseline if baseline is not None else (names[0] if names else "")
    if base not in candidates:
        raise MeasureError(f"there is no candidate {base!r} to compare with", hint=f"candidates: {', '.join(names)}")
    repeats = {name: _calibrate(name, call, clock) for name, call in candidates.items()}
    samples = _measure(candidates, repeats, seconds, min_rounds, random.Random(seed), clock)
    timings = {name: _timing(samples[name], repeats[name]) for name in names}
    ratios = {name: _ratio(samples[name], samples[base], seed) for name in names}
    return Comparison(timings, ratios, base, torch.get_num_threads(), samples)


def _calibrate(name: str, call: Callable[[], object], clock: Callable[[], int]) -> int:
    """Warms up, and finds how many calls make one sample long enough for the clock."""
    _guarded(name, call, _WARM_UP, clock)
    fastest = min(_guarded(name, call, 1, clock) for _ in range(5))
    return max(1, min(1000, _SAMPLE_NS // max(fastest, 1)))


def _measure(
    candidates: Mapping[str, Callable[[], object]],
    repeats: Mapping[str, int],
    seconds: float,
    min_rounds: int,
    order: random.Random,
    clock: Callable[[], int],
) -> dict[str, np.ndarray[Any, Any]]:
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    deadline = clock() + int(seconds * 1e9)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while clock() < deadline or len(taken[names[0]]) < min_rounds:
            order.shuffle(names)
            for name in names:
                elapsed = _guarded(name, candidates[name], repeats[name], clock)
                taken[name].append(elapsed / repeats[name] * 1e-9)
    finally:
        if collecting:
            gc.enable()
    return {name: np.asarray(values) for name, values in taken.items()}


def _guarded(name: str, call: Callable[[], object], times: int, clock: Callable[[], int]) -> int:
    try:
        start = clock()
        for _ in range(times):
            call()
        return clock() - start
    except Exception as error:
        raise MeasureError(f"{name} failed while it was timed: {type(error).__name__}: {error}") from error


def _timing(samples: np.ndarray[Any, Any], repeats: int) -> Timing:
    return Timing(
        median=float(np.median(samples)),
        p99=float(np.percentile(samples, 99)),
        best=float(samples.min()),
        samples=len(samples),
        calls_per_sample=repeats,
    )


def _ratio(samples: Sequence[float] | np.ndarray[Any, Any], base: np.ndarray[Any, Any], seed: int) -> Ratio:
    """Ratio of medians; the interval resamples rounds, the same ones for both, so that shared noise cancels."""
    values = np.asarray(samples)
    rng = np.random.default_rng(seed)
    size = min(len(values), 400)
    picks = rng.integers(len(values), size=(_RESAMPLES, size))
    draws = np.median(values[picks], axis=1) / np.median(base[picks], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Ratio(float(np.median(values) / np.median(base)), float(low), float(high))
