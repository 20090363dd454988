"""Quick calls run in the thread that brings the request; all others go to workers."""

from __future__ import annotations

import threading

import pytest
import torch
from engine_kit import TIMES, Outcomes, Slow, compiled, engine, expected, settled, tensors, variant

from recfx.serve.engine.settings import EngineSettings
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies import ServiceTimes, TenantConfig, TenantLimit


class Threads:
    """A compiled model that notes the thread of each call."""

    def __init__(self, model):
        self.model, self.parts = model, model.parts
        self.threads, self.counts, self.errors = [], [], []

    def __call__(self, *args, **kwargs):
        self.threads.append(threading.get_ident())
        self.counts.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        if self.errors:
            raise self.errors.pop()
        return self.model(*args, **kwargs)


def served(model, times=TIMES, **options):
    held = variant(model, times=times)
    held.interface.runs_on_own_kernels = isinstance(model, Threads)
    return engine(held, settings=EngineSettings(**{"workers": 1, **options}))


def idle(made):
    settled(lambda: made._idle == made.settings.workers)


def test_a_quick_call_has_its_outcome_before_submit_returns():
    model, before = Threads(compiled()), torch.get_num_threads()
    try:
        with served(model) as made:
            idle(made)
            outcomes = Outcomes()
            made.submit(tensors(3), outcomes.of(0), here=True)
            torch.testing.assert_close(outcomes.found[0][0], expected(tensors(3)))
            assert made.statistics.answered == made.statistics.batches == 1
            assert made.statistics.waiting.cumulative[-1] == 1
    finally:
        torch.set_num_threads(before)
    assert model.threads == [threading.get_ident()]
    assert model.counts == [(1, True)]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "reason", ["not asked", "slow", "switched off", "a user's backend", "often slower than measured"]
)
def test_other_calls_go_to_a_worker(reason):
    model = Threads(compiled())
    times = ServiceTimes({1: 1e-3}) if reason == "slow" else TIMES
    with served(model, times, here_seconds=0.0 if reason == "switched off" else 1e-4) as made:
        idle(made)
        if reason == "a user's backend":
            made.variant.interface.runs_on_own_kernels = False
        if reason == "often slower than measured":
            made._scheduling._batching.correction.factor = 9.0
        outcomes = Outcomes()
        made.submit(tensors(3), outcomes.of(0), here=reason != "not asked")
        torch.testing.assert_close(outcomes.wait(1)[0][0], expected(tensors(3)))
    assert threading.get_ident() not in model.threads


def test_a_request_does_not_overtake_others_or_a_busy_worker():
    slow = Slow(compiled())
    with served(slow) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("runs"))
        slow.entered.acquire()
        made.submit(tensors(2), outcomes.of("waits"), here=True)
        assert made.waiting == 1
        slow.go.set()
        assert list(outcomes.wait(2)) == ["runs", "waits"]


def test_an_error_is_the_outcome_and_one_that_ends_threads_does_not_end_this_one():
    model, before = Threads(compiled()), torch.get_num_threads()
    try:
        with served(model) as made:
            idle(made)
            outcomes = Outcomes()
            model.errors.append(MemoryError("no memory"))
            made.submit(tensors(1), outcomes.of("failed"), here=True)
            assert outcomes.found["failed"].reason is Reason.FAILED
            model.errors.append(SystemExit("ended"))
            made.submit(tensors(2), outcomes.of("again"), here=True)
            torch.testing.assert_close(outcomes.wait(2)["again"][0], expected(tensors(2)))
            assert made.statistics.retried == 1
    finally:
        torch.set_num_threads(before)


def test_limits_hold():
    before = torch.get_num_threads()
    try:
        tenants = TenantConfig(TenantLimit(1.0, 4.0))
        with engine(variant(compiled()), settings=EngineSettings(workers=1), tenants=tenants) as made:
            idle(made)
            outcomes = Outcomes()
            made.submit(tensors(4), outcomes.of(0), here=True)
            with pytest.raises(Rejected) as caught:
                made.submit(tensors(1), outcomes.of(1), here=True)
    finally:
        torch.set_num_threads(before)
    assert caught.value.reason is Reason.OVERLOADED
