"""The options of `recfx bench serve`, and the rows that it draws requests from."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from recfx.errors import InputError
from recfx.serve.load.command import _pool, _trial, add_bench_serve


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
