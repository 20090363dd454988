"""The figures of a load as text."""

from __future__ import annotations

import numpy as np
import pytest

from recfx.serve.load.figures import described, tail
from recfx.serve.load.run import Load


def _load(status: list[int]) -> Load:
    due = np.arange(len(status)) * 0.5
    return Load(due, due + 0.001, due + 0.004, np.asarray(status, np.int64))


def test_rates_times_and_answers() -> None:
    texts = dict(described(_load([200, 200, 429, 0, 413, 503, 504, 418, 200]), 2.4))
    assert texts["requests per second"] == "2 offered, 1 answered"
    assert [texts[f"p{name}"] for name in ("50", "95", "99", "99.9")] == ["4.00 ms"] * 4
    assert texts["answers"] == (
        "1 connection failed, 3 answered, 1 too large, 1 status 418, 1 overloaded, 1 closing, 1 too late"
    )
    assert texts["generator late, p99"] == "1.00 ms"


def test_loads_of_one_and_of_no_request() -> None:
    assert dict(described(_load([200]), 3.0))["requests per second"] == "3 offered, 0 answered"
    nothing = dict(described(_load([]), 3.0))
    assert (nothing["answers"], nothing["generator late, p99"], nothing["p50"]) == ("none", "0.00 ms", "inf ms")
    assert tail(_load([])) == tail(_load([]), most_lost=0.5) == float("inf")


@pytest.mark.parametrize(("most", "lost"), [(0.0, True), (0.24, True), (0.25, False), (0.3, False)])
def test_a_share_of_lost_requests_is_allowed(most: float, lost: bool) -> None:
    assert (tail(_load([200, 200, 429, 200]), most_lost=most) == float("inf")) == lost
