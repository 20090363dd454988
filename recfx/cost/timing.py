"""The one timing engine: interleaved comparison of callables in one process.

Machines are shared and noisy, so absolute times say little. Candidates take turns, in a random order each round, and the
report is the ratio of medians with an interval from resampling the rounds.
"""

from __future__ import annotations

import dataclasses
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch

from recfx.cost.bootstrap import Ratio, Samples, paired_ratio
from recfx.cost.comparison import P99_SAMPLES, Comparison, Timing
from recfx.errors import MeasureError
from recfx.kernels.background import BACKGROUND

_SAMPLE_NS = 50_000  # shorter samples would measure the clock
_TURN_NS = 500_000
_TURN_SAMPLES = 8
_WARM_UP = 3
_LONG_NS = 100_000_000
_MAX_WARM_UP = 20
_MAX_REPEATS = 10_000
#: Shares of the time after which `compare` asks whether the result is clear.
_FIRST_QUESTION, _NEXT_QUESTION = 0.1, 0.1
#: A candidate is clearly faster if almost all its calls take less than this share of the time of almost all calls of another one; below
#: the second share, more calls could not change the result, so the samples that a 99th percentile needs are not taken.
_CLEAR, _VERY_CLEAR = 0.8, 0.5
#: Rounds after which a comparison may end before its fewest rounds, and those below which only very clear results end it.
_FIRST_ROUNDS, _FEW_ROUNDS = 3, 5
_ONE = Ratio(1.0, 1.0, 1.0)

#: (Name -> samples [rounds, samples in a round], the share of the time that has passed) -> whether more samples are of no use.
Settled = Callable[[Mapping[str, Samples], float], bool]


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    min_rounds: int = 15,
    max_rounds: int = 50_000,
    baseline: str | None = None,
    single_calls: bool = False,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    settled: Settled | None = None,
) -> Comparison:
    """Times candidates in turns.

    Each round gives every candidate one turn, in a random order. A turn is an untimed call, which brings the candidate's own data
    back into the caches, and then one or several samples. Garbage collection is off meanwhile.

    Args:
        candidates: Name -> callable without arguments.
        seconds: Time to measure all candidates together; `min_rounds` may take longer.
        min_rounds: Rounds to run at least, unless `settled` is true earlier, after three rounds or more.
        max_rounds: Rounds to run at most.
        baseline: The candidate the ratios refer to; by default the first.
        single_calls: Time every call separately, which the 99th percentile needs. The clock then adds some per cent to short calls.
        seed: Seed of the order in each round and of the intervals.
        clock: Returns the time in nanoseconds.
        settled: Asked a few times, from a tenth of the time on; measuring ends when it is true.

    Raises:
        MeasureError: A candidate raised, no candidate was given, the baseline is unknown, or the number of rounds is zero.
    """
    names = list(candidates)
    base = baseline if baseline is not None else (names[0] if names else "")
    if base not in candidates:
        raise MeasureError(
            f"the candidate {base!r} to compare with is unknown", hint=f"candidates: {', '.join(names) or 'none'}"
        )
    if not 1 <= min_rounds <= max_rounds:
        raise MeasureError(
            f"cannot run at least {min_rounds} and at most {max_rounds} rounds",
            hint="pass min_rounds of at least 1, and max_rounds that is not smaller",
        )
    with BACKGROUND:
        turns = {name: Turn.calibrated(name, call, seconds, clock, single_calls) for name, call in candidates.items()}
        samples = _rounds(turns, seconds, (min_rounds, max_rounds), random.Random(seed), clock, settled)
    return Comparison(
        timings={name: turns[name].timing(samples[name]) for name in names},
        ratios={
            name: _ONE if name == base else paired_ratio(samples[name], samples[base], seed=seed) for name in names
        },
        baseline=base,
        threads=torch.get_num_threads(),
        samples=samples,
    )


def is_clearly_faster(name: str, than: str) -> Settled:
    """A condition for `compare`: almost all calls of a candidate are faster than almost all of another, by a fifth.

    It waits for five rounds, and for the samples that a 99th percentile needs if the whole time would give as many, unless the calls are
    faster by half.

    Args:
        name: The candidate.
        than: The other candidate.
    """

    def settled(samples: Mapping[str, Samples], share: float) -> bool:
        fast, slow = samples[name], samples[than]
        fewest = min(fast.size, slow.size)
        waits = fewest < P99_SAMPLES <= fewest / share or len(fast) < _FEW_ROUNDS
        return bool(np.quantile(fast, 0.99) < (_VERY_CLEAR if waits else _CLEAR) * np.quantile(slow, 0.01))

    return settled


def _rounds(
    turns: Mapping[str, Turn],
    seconds: float,
    limits: tuple[int, int],
    order: random.Random,
    clock: Callable[[], int],
    settled: Settled | None,
) -> dict[str, Samples]:
    taken: dict[str, list[list[float]]] = {name: [] for name in turns}
    names = list(turns)
    at_least, at_most = limits
    done = 0
    start = clock()
    share, asked = 0.0, _FIRST_QUESTION
    with uncollected():
        while done < at_least or (done < at_most and share < 1):
            order.shuffle(names)
            for name in names:
                taken[name].append(turns[name].take(clock))
            done += 1
            share = (clock() - start) / (seconds * 1e9) if seconds else 1.0
            if settled is not None and share >= asked and done >= min(at_least, _FIRST_ROUNDS):
                if settled({name: np.asarray(values) for name, values in taken.items()}, share):
                    break
                asked = share + _NEXT_QUESTION
    return {name: np.asarray(values) for name, values in taken.items()}


@contextmanager
def uncollected() -> Iterator[None]:
    """A context without collections of garbage, which would hit one candidate or another."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@dataclasses.dataclass(frozen=True)
class Turn:
    """How one candidate is sampled.

    Attributes:
        repeats: Calls in a sample, so that it is long enough for the clock.
        samples: Samples in a turn, so that short candidates get more of them.
        warm: Whether to call once, untimed, before the samples.
    """

    name: str
    call: Callable[[], object]
    repeats: int
    samples: int
    warm: bool

    @classmethod
    def calibrated(
        cls, name: str, call: Callable[[], object], seconds: float, clock: Callable[[], int], single: bool
    ) -> Self:
        """Warms up, and derives the numbers from the fastest call seen. Long calls, which take more than the whole time, are made twice."""
        turn = cls(name, call, 1, 1, False)
        start = clock()
        budget, whole = start + int(seconds * 1e9 / 20), start + max(int(seconds * 1e9), _LONG_NS)
        seen: list[int] = []
        while len(seen) < 2 or (
            clock() < whole if len(seen) < _WARM_UP else clock() < budget and len(seen) < _MAX_WARM_UP
        ):
            seen.append(turn._elapsed(1, clock))
        return cls.of(name, call, min(seen) * 1e-9, single=single)

    @classmethod
    def of(cls, name: str, call: Callable[[], object], seconds: float, *, single: bool = False) -> Self:
        """The numbers for a candidate.

        Args:
            name: Its name.
            call: The candidate.
            seconds: The time of a call.
            single: Whether every call is timed separately.
        """
        fastest = max(round(seconds * 1e9), 1)
        repeats = 1 if single else min(_MAX_REPEATS, -(-_SAMPLE_NS // fastest))
        sample = fastest * repeats
        return cls(name, call, repeats, max(1, min(_TURN_SAMPLES, _TURN_NS // sample)), warm=sample < 2 * _TURN_NS)

    def take(self, clock: Callable[[], int]) -> list[float]:
        """Seconds per call of each sample of one turn."""
        if self.warm:
            self._elapsed(1, clock)
        return [self._elapsed(self.repeats, clock) / self.repeats * 1e-9 for _ in range(self.samples)]

    def timing(self, samples: Samples) -> Timing:
        """The summary of all turns."""
        return Timing(
            median=float(np.median(samples)),
            p99=float(np.percentile(samples, 99)),
            best=float(samples.min()),
            samples=samples.size,
            calls_per_sample=self.repeats,
        )

    def _elapsed(self, calls: int, clock: Callable[[], int]) -> int:
        call = self.call
        try:
            start = clock()
            for _ in range(calls):
                call()
            return clock() - start
        except Exception as error:
            raise MeasureError(
                f"{self.name} failed while it was timed: {type(error).__name__}: {error}",
                where=self.name,
                hint="call it once by itself and mend what it raises",
            ) from error
