"""The options of `recfx bench serve`, and the rows that it draws requests from."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from recfx.errors import InputError
from recfx.serve.load.command import _one_load, _pool, _search, _trial, add_bench_serve
from recfx.serve.load.run import Load


def _parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_bench_serve(parser)
    return parser.parse_args(arguments)


def test_every_option_has_its_default() -> None:
    found = vars(_parsed("http://host"))
    assert callable(found.pop("run"))
    assert found == {
        **{"url": "http://host", "name": None, "model": None, "examples": None, "rate": None, "sla": None},
        **{
            "sizes": None,
            "seconds": None,
            "trace": None,
            "plot": None,
            "warm_up": 1.0,
            "connections": 256,
            "token": None,
            "seed": 0,
        },
    }


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--sla", "0"], ["--connections", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range_end_with_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _parsed("http://host", *wrong)
    assert wrong[0] in capsys.readouterr().err


def test_the_name_of_the_model_is_that_of_its_folder_or_the_given_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, dense=np.ones((9, 5), np.float32))
    name, pool = _pool(_parsed("http://host", "--examples", str(path), "--name", "tiny"))
    assert name == "tiny"
    assert list(pool.rows) == ["dense"]
    with pytest.raises(InputError, match="pass --name"):
        _pool(_parsed("http://host", "--examples", str(path)))


@pytest.mark.parametrize("given", [[], ["--model", "m", "--examples", "e.npz"]])
def test_requests_come_from_one_place(given: list[str]) -> None:
    with pytest.raises(InputError, match="pass --model or --examples"):
        _pool(_parsed("http://host", *given))


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """Options that name rows to draw requests from, and the model."""
    np.savez(tmp_path / "rows.npz", dense=np.ones((9, 5), np.float32))
    return ["--examples", str(tmp_path / "rows.npz"), "--name", "tiny"]


def test_options_of_a_trace_that_contradict_it(tmp_path: Path, rows: list[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,rows\n0,3\n1,4\n")
    with pytest.raises(InputError, match="has the rows of its requests"):
        _trial(_parsed("http://host", *rows, "--trace", str(trace), "--sizes", "5"), ("127.0.0.1", 9), "x")
    trace.write_text("seconds,rows\n0,3\n1,-4\n")
    with pytest.raises(InputError, match="request 2 of the trace has -4 rows"):
        _trial(_parsed("http://host", *rows, "--trace", str(trace)), ("127.0.0.1", 9), "x")


def test_a_trace_is_sent_at_its_times_or_at_another_rate(tmp_path: Path, rows: list[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds\n" + "\n".join(str(100 + at * 0.01) for at in range(21)))
    options = _parsed("http://host", *rows, "--trace", str(trace), "--warm-up", "0.045")
    name, run = _trial(options, ("127.0.0.1", 9), "x")  # nobody listens there
    assert name == "tiny"
    assert run(None).due.tolist() == pytest.approx([at * 0.01 for at in range(5, 21)])
    short = _parsed("http://host", *rows, "--trace", str(trace), "--warm-up", "0.05", "--seconds", "0.1")
    assert _trial(short, ("127.0.0.1", 9), "x")[1](None).due.max() < 0.15
    fast = _parsed("http://host", *rows, "--trace", str(trace), "--warm-up", "0.01")
    assert _trial(fast, ("127.0.0.1", 9), "x")[1](1000.0).due.max() == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("more", "part"),
    [(["--plot", "load.gif"], "is not a picture"), (["--plot", "load.svg", "--sla", "25"], "a search has many loads")],
)
def test_pictures_that_cannot_be_drawn_are_refused_before_the_load(more: list[str], part: str, rows: list[str]) -> None:
    options = _parsed("http://127.0.0.1:9", *rows, *more)
    with pytest.raises(InputError, match=part):
        options.run(options)


def test_a_load_is_drawn(tmp_path: Path, rows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Also one without answers, on a server without /status: here nobody listens."""
    file = tmp_path / "load.svg"
    options = _parsed("http://127.0.0.1:9", *rows, "--seconds", "0.3", "--warm-up", "0.01", "--plot", str(file))
    assert options.run(options) == 1
    assert f"drawn in {file}" in capsys.readouterr().out
    assert file.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("more", "traced", "offered"),
    [([], False, 100), (["--rate", "70"], False, 70), ([], True, 50), (["--rate", "70"], True, 70)],
    ids=["the usual rate", "a rate", "the rate of a trace", "a trace at another rate"],
)
def test_the_offered_rate_is_shown(
    more: list[str], traced: bool, offered: int, tmp_path: Path, rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """That of the options, and else the rate at which the requests of a trace were sent."""
    (tmp_path / "trace.csv").write_text("seconds\n0\n1\n")
    options = _parsed("http://host", *rows, *more, *(["--trace", str(tmp_path / "trace.csv")] if traced else []))
    due = np.arange(6) * 0.024  # 6 in 0.12 seconds
    asked: list[float | None] = []

    def trial(rate: float | None) -> Load:
        asked.append(rate)
        return Load(due, due, due + 0.001, np.full(6, 200))

    assert _one_load(options, "tiny", trial, ("127.0.0.1", 9)) == 0
    assert asked == [70.0 if more else None]
    printed = capsys.readouterr().out
    assert f"{offered} offered, 50 answered" in printed
    assert f"rows {'of trace.csv' if traced else '1'}" in printed


def test_a_load_without_an_answer_ends_with_status_1(rows: list[str]) -> None:
    due = np.arange(3.0)
    for status, code in ((429, 1), (200, 0)):
        load = Load(due, due, due, np.full(3, status))
        assert _one_load(_parsed("http://host", *rows), "tiny", lambda rate, load=load: load, ("127.0.0.1", 9)) == code


def test_a_search_begins_at_the_rate_and_prints_its_end(rows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[float | None] = []

    def trial(rate: float | None) -> Load:
        """A server that answers 300 requests per second in time."""
        assert rate is not None
        asked.append(rate)
        due = np.arange(200) / rate
        return Load(due, due, due + (0.001 if rate <= 300 else 0.5), np.full(200, 200))

    for more, first in (([], 100.0), (["--rate", "40"], 40.0)):
        asked.clear()
        options = _parsed("http://host", *rows, "--sla", "25", *more)
        assert _search(options, trial) == 0
        assert asked[0] == pytest.approx(first)
        assert "requests/s within 25 ms at p99, rows 1" in capsys.readouterr().out
