"""Recorded requests are sent with their own rows."""

from __future__ import annotations

import numpy as np
import pytest

from recfx.errors import InputError
from recfx.serve.load import trace_load as module
from recfx.serve.load.run import Load
from recfx.serve.load.trace import RequestTrace
from recfx.serve.load.trace_load import trace_load

PLACE = "127.0.0.1", 9


def test_each_request_has_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def send(host: str, port: int, requests: list[bytes], due: np.ndarray, most: int) -> Load:
        sent.extend(requests)
        return Load(due, due, due, np.full(len(due), 200))

    monkeypatch.setattr(module, "precise_load", send)
    made: list[int] = []

    def request(rows: int) -> bytes:
        made.append(rows)
        return b"%d" % rows

    seconds = np.arange(40) * 0.1
    rows = np.asarray([3, 700] * 20)
    found = trace_load(PLACE, request, RequestTrace(seconds, rows), [1], 1.0)
    assert [int(each) for each in sent] == rows.tolist()
    assert len(made) <= 8  # bodies are shared
    assert found.due.min() == 1.0
    sent.clear()
    trace_load(PLACE, request, RequestTrace(seconds, None), [5, 6, 7], 0.0)
    assert [int(each) for each in sent] == ([5, 6, 7] * 14)[:40]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_trace_within_the_warm_up_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="within the warm-up"):
        trace_load(PLACE, lambda rows: b"", RequestTrace(np.arange(count) * 0.1, None), [1], 1.0)
