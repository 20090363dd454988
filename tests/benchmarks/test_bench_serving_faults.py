"""The benchmarks of a crowd of requests and of hot reloads."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.serving import reloads
from benchmarks.serving.crowd import Crowd, Look
from benchmarks.serving.reloads import Reloads
from recfx.serve.load.run import Load


def load(due: list[float], seconds: list[float], status: list[int]) -> Load:
    sent = np.asarray(due, np.float64)
    return Load(sent, sent, sent + np.asarray(seconds), np.asarray(status, np.int64))


def test_the_figures_of_a_crowd_count_its_own_requests() -> None:
    held = load([0, 2, 3, 4, 5, 9], [0.01, 0.02, 0.024, 0.001, 0.003, 0.5], [200, 200, 200, 504, 429, 200])
    looks = [Look(0, "fp32", 0, 5, 1), Look(2.5, "int8", 7, 5, 1), Look(8, "int8", 1, 6, 1), Look(9, "fp32", 0, 8, 2)]
    found = dict(Crowd(10.0, 2.0, 6.0, held, looks).rows(0.025))
    assert found["offered in the crowd, requests/s"] == "1"
    assert found["answered in the crowd, requests/s"] == "0"  # 2 in 4 seconds, rounded to even
    assert found["p99 of the answered, ms (limit 25)"] == "24.00"
    assert found["p99.9 and slowest of them, ms"] == "24.00, 24.00"
    assert found["answered late, by the server's clock"] == "3"
    assert found["refused on arrival"] == found["admitted and then given up"] == "1"
    assert found["p50, p99 and slowest of refusals, ms"] == "3.00, 3.00, 3.00"
    assert found["neither answered nor refused"] == "0"
    assert found["longest queue, requests"] == "7"
    assert found["first form again after the crowd, s"] == "2.0"


def test_a_crowd_that_the_first_form_bears_says_so() -> None:
    found = Crowd(10.0, 0.0, 1.0, load([0.5], [0.1], [0]), [Look(0, "fp32", 0)]).rows(0.1)
    assert ["first form again after the crowd, s", "never left"] in found
    assert ["neither answered nor refused", "1"] in found
    assert ["p99 of the answered, ms (limit 100)", "-"] in found


def test_requests_after_the_signal_do_not_count_as_failed() -> None:
    held = load([0, 1, 2, 3, 4], [0.1, 0.1, 1.5, 0.0, 0.0], [200, 500, 200, 0, 503])
    found = dict(Reloads(held, 4, 2.5).rows())
    assert found["requests"] == "3"
    assert found["reloads"] == "4"
    assert found["in flight at SIGTERM"] == "1"
    assert found["failed"] == "1 (1 of status 500)"


@pytest.mark.slow
def test_no_request_fails_during_reloads(capsys: pytest.CaptureFixture[str]) -> None:
    assert reloads.main("din", 600, 200.0) == 0
    shown = capsys.readouterr().out
    assert "| failed               |" in shown
    assert int(shown.split("| failed ")[1].split("|")[1]) == 0
    assert int(shown.split("| reloads ")[1].split("|")[1]) >= 1
