"""The options of `recfx bench serve`, and the rows that it draws requests from."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from recfx.errors import InputError
from recfx.serve.load.command import _pool, add_bench_serve


def _parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_bench_serve(parser)
    return parser.parse_args(arguments)


def test_every_option_has_its_default() -> None:
    found = vars(_parsed("http://host"))
    assert callable(found.pop("run"))
    assert found == {
        **{"url": "http://host", "name": None, "model": None, "examples": None, "rate": 100.0, "sla": None},
        **{"sizes": "1", "seconds": 10.0, "warm_up": 1.0, "connections": 256, "token": None, "seed": 0},
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
