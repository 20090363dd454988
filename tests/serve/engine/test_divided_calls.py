"""Calls in parts of their rows: the same answers, over any sizes and idle workers, and never a part of an answer."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from bag_models import BagAlone, starts
from engine_kit import Outcomes, Slow, compiled, engine, expected, settled, tensors, variant
from hypothesis import given
from hypothesis import strategies as st

import recfx
from recfx import zoo
from recfx.serve.engine.batch import Batch
from recfx.serve.engine.call import Call
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.engine.requests import Request
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.engine.variants import variant as measured_variant
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies import BatchDecision, CandidateSplit, ServiceTimes, SplitConfig

#: A division pays off from a few rows on.
LINEAR = ServiceTimes({1: 1e-3, 1024: 1.024})


def call_of(requests, bounds, model=None, grace=math.inf):
    held = variant(model or compiled(), times=LINEAR)
    waiting = [Request(held.interface.leaves(each), len(each["dense"]), 0.0, 1e9, print) for each in requests]
    return Call(Batch(waiting, held, BatchDecision(len(waiting))), bounds, 0.0, grace=grace)


def run(call, order):
    """Runs the parts as workers do that take turns as `order` says; a worker takes its next part when it has ended one."""
    assert call.prepare("tiny")
    running = [call.next_part(0.0)]
    while running:
        part = running.pop(order.pop() % len(running) if order else 0)
        outputs = call.run(part, "tiny")
        call.ended(part, outputs)
        running += [taken for _ in range(2) if (taken := call.next_part(0.0)) is not None]
    assert call.complete
    return call.outcomes("tiny")


@given(
    rows=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    idle=st.integers(1, 9),
    least=st.integers(1, 30),
    order=st.lists(st.integers(0, 8), max_size=9),
)
def test_parts_have_the_bits_of_one_call(rows, idle, least, order):
    requests = [tensors(count, seed) for seed, count in enumerate(rows)]
    split = CandidateSplit(LINEAR, SplitConfig(8, part_seconds=0.0, least_rows=least))
    bounds = split.plan(sum(rows), idle).bounds
    with torch.inference_mode():
        found = run(call_of(requests, bounds), order)
        for request, outcome in zip(requests, found, strict=True):
            whole = call_of([request], ((0, len(request["dense"])),))
            assert whole.next_part(0.0) == 0
            whole.run(0, "tiny")
            assert torch.equal(outcome[0], whole.outcomes("tiny")[0][0])


def divided(model, workers=2, **options):
    return engine(
        variant(model, times=LINEAR), settings=EngineSettings(workers=workers, **{"call_seconds": 30.0, **options})
    )


def idle(made):
    """The number of workers that wait; a request that is sent earlier finds fewer."""
    settled(lambda: made._idle == made.settings.workers)


@pytest.mark.parametrize(("workers", "parts"), [(1, [101]), (2, [50, 51]), (4, [25, 25, 25, 26])])
def test_idle_workers_share_a_request(workers, parts):
    slow = Slow(compiled())
    with divided(slow, workers) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(tensors(101), outcomes.of("all"))
        for _ in parts:
            assert slow.entered.acquire(timeout=30)
        assert made.running == 1
        slow.go.set()
        torch.testing.assert_close(outcomes.wait(1)["all"][0], expected(tensors(101)))
    assert sorted(slow.rows) == parts
    assert made.statistics.divided == (workers > 1)
    assert made.statistics.batches == made.statistics.answered == 1


@pytest.mark.parametrize("reason", ["switched off", "few rows", "no gain"])
def test_calls_that_are_not_divided(reason):
    slow = Slow(compiled())
    slow.go.set()
    times = ServiceTimes({1: 1.0, 1024: 1.0}) if reason == "no gain" else LINEAR
    rows = 31 if reason == "few rows" else 200
    settings = EngineSettings(workers=2, split=reason != "switched off")
    with engine(variant(slow, times=times), settings=settings) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(tensors(rows), outcomes.of(0))
        torch.testing.assert_close(outcomes.wait(1)[0][0], expected(tensors(rows)))
    assert slow.rows == [rows]


def test_workers_that_have_requests_of_their_own_share_none():
    with divided(compiled()) as made:
        held = made.variants[0]
        request = Request(held.interface.leaves(tensors(100)), 100, 0.0, 1e9, print)
        batch = Batch([request], held, BatchDecision(1, rows=100))
        with made.lock:
            now = made.clock()
            counts = [made._scheduling.call(batch, 2, waiting, now).parts for waiting in (0, 1, 5)]
            assert counts == [2, 1, 1]
            assert made._scheduling.call(batch, 1, 0, now).parts == 1


def test_after_an_error_in_a_part_all_rows_run_again_and_the_error_is_that_of_the_request():
    slow = Slow(compiled())
    slow.go.set()
    with divided(slow) as made:
        idle(made)
        outcomes = Outcomes()
        bad = tensors(100)
        bad["sparse"][77, 2] = 1000
        made.submit(bad, outcomes.of("bad"))
        found = outcomes.wait(1)
        with pytest.raises(Exception, match="id 1000") as alone:
            compiled()(*bad.values())
    assert found["bad"].reason is Reason.INVALID
    assert found["bad"].what == alone.value.what
    assert slow.rows[-1] == 100


def test_an_error_that_passes_is_not_seen():
    slow = Slow(compiled())
    slow.errors.append(MemoryError("no memory"))
    slow.go.set()
    with divided(slow) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(tensors(100), outcomes.of(0))
        torch.testing.assert_close(outcomes.wait(1)[0][0], expected(tensors(100)))
    assert slow.rows[-1] == 100
    assert made.statistics.answered == made.statistics.batches == 1


def test_a_worker_that_dies_in_a_part_gives_the_request_back_as_a_whole():
    slow = Slow(compiled())
    slow.errors.append(SystemExit("ended"))
    slow.go.set()
    with divided(slow) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(tensors(100), outcomes.of(0))
        torch.testing.assert_close(outcomes.wait(1)[0][0], expected(tensors(100)))
        settled(lambda: made.statistics.answered == 1)
        assert made.statistics.retried == made.statistics.replaced_workers == 1
        idle(made)


def test_a_request_of_which_parts_end_two_workers_fails_once():
    slow = Slow(compiled())
    slow.errors += [SystemExit("ended")] * 4
    slow.go.set()
    with divided(slow) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(tensors(100), outcomes.of("fails"))
        failed = outcomes.wait(1)["fails"]
        assert failed.reason is Reason.FAILED
        slow.errors.clear()
        idle(made)
        made.submit(tensors(100), outcomes.of("next"))
        torch.testing.assert_close(outcomes.wait(1)["next"][0], expected(tensors(100)))
        assert made.healthy


def test_a_part_that_hangs_fails_the_request_and_its_workers_are_replaced():
    slow = Slow(compiled())
    with divided(slow, call_seconds=0.2) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(tensors(100), outcomes.of("hangs"))
        found = outcomes.wait(1)
        assert found["hangs"].reason is Reason.FAILED
        settled(lambda: made._idle == 2)  # two new ones
        slow.go.set()
        idle(made)
        made.submit(tensors(100), outcomes.of("next"))
        torch.testing.assert_close(outcomes.wait(1)["next"][0], expected(tensors(100)))
        assert made.healthy


def test_no_part_begins_when_the_client_has_left():
    call = call_of([tensors(90)], ((0, 30), (30, 60), (60, 90)))
    assert call.prepare("tiny")
    first = call.next_part(0.0)
    call.batch.requests[0].cancelled = True
    assert call.next_part(0.0) is None
    call.ended(first, call.run(first, "tiny"))
    assert call.complete
    assert [outcome.reason for outcome in call.outcomes("tiny")] == [Reason.GIVEN_UP]  # nobody reads it


@pytest.mark.parametrize("grace", [0.0, 0.25])
def test_no_part_begins_later_than_the_grace_after_the_deadline(grace):
    call = call_of([tensors(90)], ((0, 30), (30, 60), (60, 90)), grace=grace)
    call.batch.requests[0].deadline = 1.0
    assert call.prepare("tiny")
    first, second = call.next_part(0.5), call.next_part(1.0 + grace)
    call.ended(first, call.run(first, "tiny"))
    assert call.next_part(1.5) is None
    call.ended(second, call.run(second, "tiny"))
    (outcome,) = call.outcomes("tiny")
    assert isinstance(outcome, Rejected)
    assert outcome.reason is Reason.GIVEN_UP


def test_a_call_that_began_is_ended_after_the_deadline():
    call = call_of([tensors(60)], ((0, 30), (30, 60)))
    call.batch.requests[0].deadline = 1.0
    assert call.prepare("tiny")
    for now in (0.5, 1e6):
        part = call.next_part(now)
        call.ended(part, call.run(part, "tiny"))
    (outcome,) = call.outcomes("tiny")
    torch.testing.assert_close(outcome[0], expected(tensors(60)))


def test_one_caller_reports():
    call = call_of([tensors(60)], ((0, 30), (30, 60)))
    assert call.claim() is call.batch.requests
    assert call.claim() is None


class Faulty:
    """A compiled model of which some calls raise and some end their thread."""

    def __init__(self, model, faults):
        self.model, self.parts = model, model.parts
        self.faults, self.lock = faults, threading.Lock()

    def __call__(self, *args, **kwargs):
        with self.lock:
            fault = self.faults.pop() if self.faults else None
        if fault is not None:
            raise fault("drawn")
        return self.model(*args, **kwargs)


@given(
    faults=st.lists(st.sampled_from([None, None, ValueError, SystemExit]), max_size=12),
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=6),
)
def test_every_request_gets_a_whole_answer_or_an_error(faults, sizes):
    with divided(Faulty(compiled(), faults), workers=3) as made:
        outcomes = Outcomes()
        for number, rows in enumerate(sizes):
            made.submit(tensors(rows, number), outcomes.of(number))
        found = outcomes.wait(len(sizes))
    for number, rows in enumerate(sizes):
        if isinstance(found[number], Rejected):
            assert found[number].reason is Reason.FAILED
        else:
            torch.testing.assert_close(found[number][0], expected(tensors(rows, number)))


def test_what_depends_on_the_user_alone_is_computed_once(monkeypatch):
    torch.manual_seed(0)
    model = zoo.DIN.small().eval()
    user, item, history = model.example_inputs(80)
    fast = recfx.optimize(
        model, example_inputs=(user, item, history), request_inputs=("user", "history"), measure=False, target="native"
    )
    interface = ModelInterface(fast)
    side = fast.parts.division.side
    asked = []
    values = type(side).values
    monkeypatch.setattr(type(side), "values", lambda self, leaves: asked.append(1) or values(self, leaves))
    request = {"user": user[:1], "item": item, "history": history[:1]}
    with engine(Variant("din", interface, LINEAR), settings=EngineSettings(workers=2)) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit(request, outcomes.of(0))
        found = outcomes.wait(1)[0][0]
    assert len(asked) == made.statistics.divided == 1
    torch.testing.assert_close(found, fast(user[:1], item, history[:1]), rtol=1e-4, atol=1e-5)


def test_the_time_of_the_request_side_is_measured():
    torch.manual_seed(0)
    model = zoo.DIN.small().eval()
    example = model.example_inputs(8)
    fast = recfx.optimize(model, example_inputs=example, request_inputs=("user", "history"), measure=False)
    assert 0.0 < measured_variant(fast, "din", 1).request_seconds < 0.1
    assert measured_variant(compiled(), "tiny", 1).request_seconds == 0.0


def test_bags_are_divided_as_a_whole():
    torch.manual_seed(0)
    model = BagAlone().eval()

    def request(rows):
        lengths = torch.randint(0, 5, (rows,))
        return torch.randint(0, 40, (int(lengths.sum()),)), starts(lengths)

    fast = recfx.optimize(model, example_inputs=request(8), target="native", measure=False)
    ids, offsets = request(90)
    with engine(Variant("bags", ModelInterface(fast), LINEAR), settings=EngineSettings(workers=2)) as made:
        idle(made)
        outcomes = Outcomes()
        made.submit({"ids": ids, "offsets": offsets}, outcomes.of(0))
        found = outcomes.wait(1)[0][0]
        assert made.statistics.divided == 1
        made.submit({"ids": ids, "offsets": offsets + 1}, outcomes.of("wrong"))
        wrong = outcomes.wait(1)["wrong"]
    with torch.no_grad():
        torch.testing.assert_close(found, model(ids, offsets))
    assert wrong.reason is Reason.INVALID
