"""The engine: answers, batches, limits, cancellation, replacement of models and workers, and its end."""

from __future__ import annotations

import math
import time

import pytest
import torch
from engine_kit import TIMES, Outcomes, Slow, compiled, engine, expected, settled, tensors, variant
from torch import nn

import recfx
from recfx.errors import InputError
from recfx.serve.engine.batch import Batch
from recfx.serve.engine.requests import Request
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.batching import BatchDecision
from recfx.serve.policies.tenants import TenantConfig, TenantLimit
from recfx.serve.policies.times import ServiceTimes


def test_every_request_gets_its_own_answer():
    with engine() as made:
        outcomes = Outcomes()
        requests = [tensors(1 + n % 5, seed=n) for n in range(200)]
        for number, request in enumerate(requests):
            made.submit(request, outcomes.of(number))
        found = outcomes.wait(len(requests))
    for number, request in enumerate(requests):
        torch.testing.assert_close(found[number][0], expected(request))
    assert made.statistics.answered == 200
    assert made.statistics.rows == sum(1 + n % 5 for n in range(200))
    assert made.statistics.latency.cumulative[-1] == 200


def test_requests_that_wait_share_calls_up_to_the_limit_of_rows():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, batch_rows=10)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("first"))
        slow.entered.acquire()
        for number in range(9):
            made.submit(tensors(3, seed=number), outcomes.of(number))
        made.submit(tensors(25), outcomes.of("large"))
        slow.go.set()
        found = outcomes.wait(11)
    assert slow.rows == [1, 9, 9, 9, 25]
    torch.testing.assert_close(found[4][0], expected(tensors(3, seed=4)))


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_requests_whose_rows_depend_on_each_other_have_calls_of_their_own():
    fast = recfx.optimize(Mean().eval(), target="eager", example_inputs=(torch.rand(4, 3),), measure=False)
    slow = Slow(fast)
    with engine(variant(slow), settings=EngineSettings(workers=1)) as made:
        outcomes = Outcomes()
        inputs = [torch.rand(n + 2, 3) for n in range(4)]
        for number, x in enumerate(inputs):
            made.submit({"x": x}, outcomes.of(number))
        slow.go.set()
        found = outcomes.wait(4)
    assert slow.rows == [2, 3, 4, 5]
    for number, x in enumerate(inputs):
        torch.testing.assert_close(found[number][0], x - x.mean(0))


def test_only_the_request_at_fault_gets_the_error_of_a_shared_call():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("first"))
        slow.entered.acquire()
        bad = tensors(2)
        bad["sparse"][1, 2] = 1000
        made.submit(bad, outcomes.of("bad"))
        for number in range(3):
            made.submit(tensors(2, seed=number), outcomes.of(number))
        slow.go.set()
        found = outcomes.wait(5)
    assert found["bad"].reason is Reason.INVALID
    assert "id 1000" in str(found["bad"])
    for number in range(3):
        torch.testing.assert_close(found[number][0], expected(tensors(2, seed=number)))
    assert made.statistics.rejected[Reason.INVALID] == 1


def test_an_error_of_the_model_is_the_outcome_of_its_request_alone():
    slow = Slow(compiled())
    slow.go.set()
    slow.errors.append(MemoryError("no memory"))
    with engine(variant(slow), settings=EngineSettings(workers=1)) as made:
        outcomes = Outcomes()
        made.submit(tensors(2), outcomes.of("failed"))
        found = outcomes.wait(1)
        made.submit(tensors(2), outcomes.of("next"))
        outcomes.wait(1)
    assert found["failed"].reason is Reason.FAILED
    assert "MemoryError: no memory" in str(found["failed"])
    torch.testing.assert_close(found["next"][0], expected(tensors(2)))


def refused(made, request=None, **options):
    with pytest.raises(Rejected) as caught:
        made.submit(request or tensors(1), lambda outcome: None, **options)
    return caught.value


def test_a_full_queue_refuses_at_once():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, most_queued=2)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("runs"))
        slow.entered.acquire()
        for number in range(2):
            made.submit(tensors(1), outcomes.of(number))
        assert refused(made).reason is Reason.OVERLOADED
        assert made.waiting == 2
        slow.go.set()
        outcomes.wait(3)
    assert made.statistics.rejected[Reason.OVERLOADED] == 1


def test_too_many_rows_are_refused():
    with engine(settings=EngineSettings(workers=1, most_rows=4)) as made:
        error = refused(made, tensors(5))
    assert error.reason is Reason.TOO_LARGE
    assert "5 rows" in error.what


def test_a_deadline_that_cannot_be_met_is_refused_at_once():
    hour = ServiceTimes({1: 3600.0})
    with engine(variant(times=hour)) as made:
        error = refused(made, timeout=1.0)
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("none"))
        torch.testing.assert_close(outcomes.wait(1)["none"][0], expected(tensors(1)))
    assert error.reason is Reason.TOO_LATE
    assert "3.6e+03 s" in error.what


def held_up(**limits):
    """Statistics and outcomes of an engine whose one worker is held until the deadline of a request in the queue has passed."""
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, timeout=0.2, **limits)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("runs"), timeout=3600.0)
        slow.entered.acquire()
        made.submit(tensors(2), outcomes.of("waits"))
        time.sleep(0.3)
        slow.go.set()
        found = outcomes.wait(2)
    torch.testing.assert_close(found["runs"][0], expected(tensors(1)))
    return made.statistics, found["waits"]


@pytest.mark.parametrize("limits", [{}, {"grace": 3600.0}])
def test_what_was_admitted_is_answered_late_if_its_deadline_passes_in_the_queue(limits):
    statistics, outcome = held_up(**limits)
    torch.testing.assert_close(outcome[0], expected(tensors(2)))
    assert (statistics.answered, statistics.late) == (2, 1)
    assert not any(statistics.rejected.values())


@pytest.mark.parametrize("grace", [0.0, 0.05])
def test_a_request_that_would_be_later_than_the_grace_is_given_up(grace):
    statistics, outcome = held_up(grace=grace)
    assert outcome.reason is Reason.GIVEN_UP
    assert statistics.rejected[Reason.GIVEN_UP] == 1
    assert (statistics.answered, statistics.late, statistics.rejected[Reason.TOO_LATE]) == (1, 0, 0)


def test_a_request_of_a_worker_that_died_is_answered_after_its_deadline():
    slow = Slow(compiled())
    slow.errors = [SystemExit()]
    with engine(variant(slow), settings=EngineSettings(workers=1, timeout=0.2)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("runs"))
        slow.entered.acquire()
        time.sleep(0.3)
        slow.go.set()
        torch.testing.assert_close(outcomes.wait(1)["runs"][0], expected(tensors(1)))
        assert (made.statistics.late, made.statistics.retried) == (1, 1)


def test_a_busy_worker_is_expected_to_take_as_long_as_calls_do():
    """Where calls take longer than measured, so do those that run when a request arrives."""
    with engine(variant(times=ServiceTimes({1: 1e-3})), settings=EngineSettings(workers=1)) as made:
        scheduling = made._scheduling
        scheduling._batching.correction.factor = 3.0
        batch = Batch([Request([], 1, 0.0, math.inf, print)], made.variant, BatchDecision(1, rows=1, predicted=1e-3))
        assert scheduling.call(batch, 1, 0, 0.0).seconds == pytest.approx(3e-3)


def test_the_earliest_deadline_runs_first():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, batch_rows=1)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("runs"))
        slow.entered.acquire()
        for name, timeout in (("none", None), ("late", 60.0), ("early", 30.0)):
            made.submit(tensors(1), outcomes.of(name), timeout=timeout)
        slow.go.set()
        assert list(outcomes.wait(4)) == ["runs", "early", "late", "none"]


def test_a_cancelled_request_is_not_computed():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, batch_rows=1)) as made:
        outcomes = Outcomes()
        running = made.submit(tensors(1), outcomes.of("running"))
        slow.entered.acquire()
        waiting = made.submit(tensors(2), outcomes.of("waiting"))
        made.submit(tensors(3), outcomes.of("kept"))
        made.cancel(waiting)
        made.cancel(running)
        slow.go.set()
        assert list(outcomes.wait(1)) == ["kept"]
        settled(lambda: made.statistics.rejected[Reason.CANCELLED] == 2)
    assert slow.rows == [1, 3]


def test_tenants_have_limits_of_their_own():
    with engine(tenants=TenantConfig(TenantLimit(1.0, 4.0))) as made:
        outcomes = Outcomes()
        made.submit(tensors(4), outcomes.of("a"), tenant="a")
        error = refused(made, tensors(1), tenant="a")
        made.submit(tensors(4), outcomes.of("b"), tenant="b")
        outcomes.wait(2)
    assert error.reason is Reason.OVERLOADED
    assert "the tenant 'a' for this second are used up" in error.what


def test_a_call_that_hangs_is_answered_and_its_worker_replaced():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, call_seconds=0.2)) as made:
        outcomes = Outcomes()
        made.submit(tensors(1), outcomes.of("hangs"))
        found = outcomes.wait(1)
        assert found["hangs"].reason is Reason.FAILED
        assert "did not end in 0.2 s" in found["hangs"].what
        slow.go.set()
        made.submit(tensors(2), outcomes.of("next"))
        torch.testing.assert_close(outcomes.wait(1)["next"][0], expected(tensors(2)))
        assert made.healthy


def test_a_model_whose_calls_all_hang_is_not_healthy():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, call_seconds=0.05)) as made:
        outcomes = Outcomes()
        for number in range(4):
            made.submit(tensors(1), outcomes.of(number))
            outcomes.wait(1)
        settled(lambda: not made.healthy)
        slow.go.set()
        settled(lambda: made.healthy)


def test_the_requests_of_a_worker_that_dies_run_again():
    slow = Slow(compiled())
    slow.go.set()
    slow.errors.append(SystemExit("ended"))
    with engine(variant(slow), settings=EngineSettings(workers=1)) as made:
        outcomes = Outcomes()
        made.submit(tensors(2), outcomes.of("again"))
        torch.testing.assert_close(outcomes.wait(1)["again"][0], expected(tensors(2)))
        assert made.statistics.retried == made.statistics.replaced_workers == 1


def test_a_request_that_ends_two_workers_fails():
    slow = Slow(compiled())
    slow.go.set()
    slow.errors += [SystemExit("ended"), SystemExit("ended")]
    with engine(variant(slow), settings=EngineSettings(workers=1)) as made:
        outcomes = Outcomes()
        made.submit(tensors(2), outcomes.of("fails"))
        failed = outcomes.wait(1)["fails"]
        made.submit(tensors(3), outcomes.of("next"))
        torch.testing.assert_close(outcomes.wait(1)["next"][0], expected(tensors(3)))
    assert failed.reason is Reason.FAILED
    assert "two workers died" in failed.what


def test_another_model_takes_over_between_calls():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1)) as made:
        outcomes = Outcomes()
        made.submit(tensors(2), outcomes.of("old"))
        slow.entered.acquire()
        made.submit(tensors(2), outcomes.of("waits"))
        made.replace([variant(compiled(1))])
        slow.go.set()
        found = outcomes.wait(2)
    assert made.version == 2
    torch.testing.assert_close(found["old"][0], expected(tensors(2)))
    torch.testing.assert_close(found["waits"][0], expected(tensors(2), seed=1))


def test_a_model_of_another_interface_does_not_take_over():
    other = recfx.optimize(Mean().eval(), target="eager", example_inputs=(torch.rand(4, 3),), measure=False)
    with engine() as made:
        with pytest.raises(InputError, match="another interface: only the model that is served has the input dense"):
            made.replace([variant(other)])
        outcomes = Outcomes()
        made.submit(tensors(2), outcomes.of("same"))
        torch.testing.assert_close(outcomes.wait(1)["same"][0], expected(tensors(2)))
        assert made.version == 1
    with pytest.raises(InputError, match="variants of a model"), engine(variant(), variant(other, "other")):
        pass


def test_the_end_answers_what_waits_and_takes_no_more():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, batch_rows=1)) as made:
        outcomes = Outcomes()
        for number in range(3):
            made.submit(tensors(1), outcomes.of(number))
        slow.go.set()
        assert made.close(10.0)
        assert refused(made).reason is Reason.CLOSING
        assert not made.healthy
        for outcome in outcomes.wait(3).values():
            torch.testing.assert_close(outcome[0], expected(tensors(1)))


def test_the_end_rejects_what_cannot_be_answered_in_time():
    slow = Slow(compiled())
    with engine(variant(slow), settings=EngineSettings(workers=1, batch_rows=1)) as made:
        outcomes = Outcomes()
        for number in range(3):
            made.submit(tensors(1), outcomes.of(number))
        slow.entered.acquire()
        assert not made.close(0.1)
        assert {outcome.reason for outcome in outcomes.wait(3).values()} == {Reason.CLOSING}
        slow.go.set()


class Sleeping:
    """A compiled model of which each call takes 20 ms and more."""

    def __init__(self, model):
        self.model, self.parts = model, model.parts

    def __call__(self, *args, **kwargs):
        time.sleep(0.02)
        return self.model(*args, **kwargs)


def test_under_load_the_quicker_variant_answers():
    best = variant(Sleeping(compiled()), "best", ServiceTimes({1: 0.02}), quality=0.8)
    quick = variant(compiled(1), "quick", TIMES, quality=0.7)
    with engine(best, quick, settings=EngineSettings(workers=1, batch_rows=2)) as made:
        outcomes = Outcomes()
        made.submit(tensors(2), outcomes.of("alone"))
        torch.testing.assert_close(outcomes.wait(1)["alone"][0], expected(tensors(2)))
        for number in range(300):
            made.submit(tensors(2), outcomes.of(number))
        found = outcomes.wait(300)
    torch.testing.assert_close(found[299][0], expected(tensors(2), seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "integer of at least 1, got 0"),
        ({"threads": True}, "integer of at least 1, got True"),
        ({"most_rows": 1.5}, "integer of at least 1"),
        ({"timeout": 0.0}, "seconds of at least 1e-06"),
        ({"most_wait": -1.0}, "seconds of at least 0"),
        ({"call_seconds": float("nan")}, "seconds of at least 0.001, got nan"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        EngineSettings(**options)
