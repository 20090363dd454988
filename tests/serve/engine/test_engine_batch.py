"""The requests of one call: their rows, their order while they wait, and a call of one of them."""

from __future__ import annotations

from typing import Any

from recfx.serve.engine.batch import Batch
from recfx.serve.engine.requests import Request, RequestQueue
from recfx.serve.engine.variants import Variant
from recfx.serve.policies.batching import BatchDecision
from recfx.serve.policies.times import ServiceTimes


def _request(rows: int, deadline: float = 1.0, arrived: float = 0.0) -> Request:
    return Request([], rows, arrived, deadline, lambda outcome: None)


def test_one_request_of_a_batch_has_a_decision_of_its_own() -> None:
    served: Any = None
    variant = Variant("fp32", served, ServiceTimes({1: 1.0, 64: 64.0}))
    requests = [_request(2), _request(8), _request(3)]
    batch = Batch(requests, variant, BatchDecision(3, drop=1, rows=13, full=True, predicted=13.0))
    assert batch.rows == 13
    one = batch.only(requests[1])
    assert (one.requests, one.rows, one.variant) == ([requests[1]], 8, variant)
    assert one.decision == BatchDecision(1, drop=1, rows=8, full=False, predicted=variant.times.seconds(8))
    assert batch.rows == 13


def test_requests_wait_by_deadline_and_then_by_arrival() -> None:
    queue = RequestQueue()
    late, soon, tie = _request(1, 9.0), _request(2, 3.0), _request(4, 9.0, arrived=1.0)
    for request in (tie, late, soon):
        queue.add(request)
    assert list(queue) == [soon, late, tie]
    assert (len(queue), queue.rows, list(queue.first())) == (3, 7, [soon])
    assert queue.discard(late)
    assert not queue.discard(late)
    assert not queue.discard(_request(2, 3.0))
    assert (list(queue), queue.rows) == ([soon, tie], 6)
    assert queue.take(1) == [soon]
    assert (queue.rows, len(queue)) == (4, 1)
    assert queue.take(5) == [tie]
    assert (queue.rows, len(queue), list(queue.first())) == (0, 0, [])
