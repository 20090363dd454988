"""The simulator and the engine agree: the same requests at the same times have the same percentiles on one machine.

The engine runs as it is, with real threads and an open-loop load. On a machine that others use, the time of a call varies, and so does the
time in which a thread wakes. The simulation therefore takes the measured times of the calls of the very run that it is compared with; who
shares a call, who is divided and who waits for whom are its own predictions.
"""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from engine_kit import Outcomes, compiled, engine, settled, tensors, variant

from recfx.serve.engine import scheduling
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.policies import ServiceTimes
from recfx.serve.simulator import Machines, Policies, QuerySizes, RecordedTimes, Scenario, Variant, simulate

pytestmark = pytest.mark.slow

#: Seconds by rows of a model that takes long enough for the scheduler of the operating system to be small beside it.
TIMES = ServiceTimes({1: 0.008, 64: 0.016, 256: 0.04, 1024: 0.16})
#: The difference that is allowed between percentiles, as a share.
ALLOWED = 0.15
#: Seconds for which a hand-over to another thread counts when requests are divided. The measured time is long on a loaded machine, which
#: would then divide none.
HAND_OVER = 1e-4
#: Trials; a burst of other processes' work in the middle of a run spoils it.
TRIALS = 4


class Timed:
    """A compiled model of which each call takes the time of a profile, while it leaves the processor to others."""

    def __init__(self, model):
        self.model, self.parts = model, model.parts

    def __call__(self, *args, **kwargs):
        begun = time.monotonic()
        found = self.model(*args, **kwargs)
        time.sleep(max(TIMES.seconds(len(args[0])) - (time.monotonic() - begun), 0.0))
        return found

    def pinned(self):
        """Itself: its tables take no rows."""
        return self


class Recorded(QuerySizes):
    """Given rows, in order."""

    def draw(self, count, generator):
        return np.asarray(ROWS[:count])


#: As many rows in each request as in queries of DeepRecSys, capped so that a single one does not decide a percentile.
ROWS = np.random.default_rng(7).lognormal(5.1, 0.4, 2000).clip(16, 400).astype(int)


def run_engine(made, due):
    """When each request was sent and answered, and (arrival, end, predicted seconds, parts) of each call in the order of their begins."""
    calls, sent, done, parts = [], np.zeros(len(due)), np.zeros(len(due)), {}
    finished, called = made._scheduling.finished, made._scheduling.call

    def call(*args):
        found = called(*args)
        parts[id(found.batch)] = found.parts
        return found

    def record(batch, seconds):
        now = made.clock()
        arrived = batch.requests[0].arrived
        calls.append((now - seconds, arrived - begin, now - begin, batch.decision.predicted, parts.pop(id(batch), 1)))
        finished(batch, seconds)

    made._scheduling.finished, made._scheduling.call = record, call
    requests = [tensors(int(rows)) for rows in ROWS[: len(due)]]
    outcomes = Outcomes()
    begin = made.clock()

    def answered(number):
        told = outcomes.of(number)

        def finish(outcome):
            done[number] = made.clock() - begin
            told(outcome)

        return finish

    for number, when in enumerate(due):
        time.sleep(max(begin + when - made.clock(), 0.0))
        sent[number] = made.clock() - begin
        made.submit(requests[number], answered(number))
    outcomes.wait(len(due))
    return sent, done, [call[1:] for call in sorted(calls)]


def factors(calls, workers):
    """The time of each call over the predicted one.

    It begins when the request was there and a worker was free, so that it holds the time in which the request was handed over.
    """
    ends, found = [], []
    for arrived, end, predicted, parts in calls:
        free = sorted(ends)[-workers] if len(ends) >= workers else 0.0
        found.append(max(end - max(arrived, free), 1e-9) / predicted)
        ends += [end] * parts
    return tuple(found)


def simulated(made, sent, calls):
    """The report of the same requests on the same policies."""
    held, workers = made._scheduling, made.settings.workers
    split = None if held._split is None else held._split.config
    return simulate(
        Scenario(
            variants=(Variant("measured", TIMES),),
            machines=(Machines(1, workers),),
            arrivals=RecordedTimes(tuple(sent)),
            seconds=float(sent[-1]) + 1e-6,
            sizes=Recorded("fixed", (100.0,)),
            sla_seconds=1e3,
            policies=Policies(batching=held._batching.config, admission=None, ladder=None, splitting=split),
            factors=factors(calls, workers),
        )
    )


@pytest.mark.parametrize(
    ("workers", "load", "split"),
    [(1, 0.5, False), (2, 0.4, False), (2, 0.8, False), (1, 0.5, True), (2, 0.4, True), (2, 0.8, True)],
)
def test_percentiles_agree_within_15_percent(monkeypatch, workers, load, split):
    monkeypatch.setattr(scheduling, "hand_over_seconds", lambda: HAND_OVER)
    average = float(np.mean([TIMES.seconds(int(rows)) for rows in ROWS[:300]]))
    due = np.random.default_rng(workers).exponential(average / (workers * load), 300).cumsum()
    found = []
    for _ in range(TRIALS):
        settings = EngineSettings(workers=workers, split=split, batch_rows=512)
        with engine(variant(Timed(compiled()), times=TIMES), settings=settings) as made:
            settled(lambda made=made: made._idle == workers)
            sent, done, calls = run_engine(made, due)
            report = simulated(made, sent, calls)
            assert (made.statistics.divided > 0) == (split and workers > 1)
        shares = (0.5, 0.99)
        found.append([report.latency(100 * share) / float(np.quantile(done - sent, share)) for share in shares])
        if all(abs(math.log(ratio)) <= math.log1p(ALLOWED) for ratio in found[-1]):
            return
    raise AssertionError(f"predicted over measured p50 and p99: {found}")
