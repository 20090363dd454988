"""Recorded loads in CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from recfx.errors import InputError
from recfx.serve.simulator import RateTrace, RecordedTimes, read_trace


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_times_of_requests(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, "seconds\n100.5\n100.75\n\n102\n")) == RecordedTimes((0.0, 0.25, 1.5))


def test_rates_over_time(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "Seconds, rate\n60,10\n120,30\n"))
    assert trace == RateTrace(((0.0, 10.0), (60.0, 30.0)))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "first line of the trace is ''"),
        ("time\n1\n", "first line of the trace is 'time'"),
        ("seconds\n", "no times"),
        ("seconds\n1\nsoon\n", "line 3 of the trace is 'soon'"),
        ("seconds,rate\n1,2\n3\n", "line 3 of the trace is '3'"),
        ("seconds\n2\n1\n", "not ascending"),
        ("seconds\n1\nnan\n", "line 3 of the trace"),
        ("seconds,rate\n1,-2\n", "rates of at least 0"),
    ],
)
def test_files_that_are_not_traces(text: str, part: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=part) as caught:
        read_trace(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path / "nothing.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"seconds\n\xff\n")
    with pytest.raises(InputError, match="not a CSV file"):
        read_trace(path)
