"""Recorded requests in CSV files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recfx.errors import InputError
from recfx.serve.load.trace import read_requests


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_times_and_rows(tmp_path: Path) -> None:
    trace = read_requests(written(tmp_path, "Seconds, rows\n100.5,7\n100.5,120\n\n102,1\n"))
    assert trace.seconds.tolist() == [0.0, 0.0, 1.5]
    assert trace.rows is not None
    assert trace.rows.tolist() == [7, 120, 1]
    assert trace.rate == pytest.approx(2 / 1.5)
    short = trace.before(1.0)
    assert (short.seconds.tolist(), short.rows.tolist() if short.rows is not None else None) == ([0.0, 0.0], [7, 120])


def test_times_alone(tmp_path: Path) -> None:
    trace = read_requests(written(tmp_path, "seconds\n" + "\n".join(str(at / 10) for at in range(101))))
    assert trace.rows is None
    assert trace.rate == pytest.approx(10.0)
    assert trace.at_rate(40.0).seconds[-1] == pytest.approx(2.5)
    assert np.diff(trace.at_rate(40.0).seconds) == pytest.approx(0.025)


def test_requests_that_arrive_at_once_have_no_rate(tmp_path: Path) -> None:
    trace = read_requests(written(tmp_path, "seconds\n5\n5\n"))
    assert trace.rate == float("inf")
    assert trace.at_rate(10.0).seconds.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "first line of the trace is ''"),
        ("rows,seconds\n1,2\n", "first line of the trace is 'rows,seconds'"),
        ("seconds,rate\n1,2\n", "first line of the trace is 'seconds,rate'"),
        ("seconds,rows\n", "no times"),
        ("seconds,rows\n1,2\nsoon,3\n", "line 3 of the trace is 'soon,3'"),
        ("seconds,rows\n\n1,2\n3\n", "line 4 of the trace is '3'"),
        ("seconds,rows\n1,inf\n", "line 2 of the trace is '1,inf'"),
        ("seconds\n1\nnan\n", "line 3 of the trace is 'nan'"),
        ("seconds\n1\n3\n2\n", "request 3 of the trace has the time 2, which is before 3"),
        ("seconds,rows\n1,0\n", "request 1 of the trace has 0 rows"),
        ("seconds,rows\n1,5\n2,2.5\n", "request 2 of the trace has 2.5 rows"),
        ("seconds,rows\n1,1e9\n", r"request 1 of the trace has 1e\+09 rows"),
    ],
)
def test_files_that_are_not_traces_of_requests(text: str, part: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=part) as caught:
        read_requests(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_requests(tmp_path / "nothing.csv")
