"""How every command of the repository parses, succeeds and fails."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import nightly
import pytest

from benchmarks.__main__ import main as benchmarks
from recfx.cli import main as recfx_main
from recfx.command_line import add_option, integers, listed, run_command
from recfx.errors import InputError


def parser(run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m some.command")
    for name in ("threads", "seed", "seconds", "workers"):
        add_option(made, name, 3)
    made.add_argument("--sizes", type=integers)
    made.set_defaults(run=run)
    return made


def test_the_status_is_that_of_the_command() -> None:
    assert run_command(parser(lambda options: options.seed), ["--seed", "7"]) == 7
    assert run_command(parser(lambda options: options.workers), []) == 3
    assert run_command(parser(lambda options: int(options.sizes == (1, 2))), ["--sizes", " 1, 2,"]) == 1


def test_errors_go_to_standard_error_behind_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise InputError("no such thing", hint="name another one")

    def stop(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    assert run_command(parser(fail), []) == 1
    assert run_command(parser(stop), []) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "some.command: no such thing"
    assert "name another one" in err
    assert err.splitlines()[-1] == "some.command: interrupted"


def test_lists_between_commas(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(" a, b,,c ") == ["a", "b", "c"]
    with pytest.raises(SystemExit, match="2"):
        run_command(parser(lambda options: 0), ["--sizes", "1,x"])
    assert "expected integers such as 1,2,4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "name"),
    [
        (benchmarks, ["run", "no-such-case"], "benchmarks: "),
        (recfx_main, ["explain", "no-such-folder"], "recfx: "),
        (lambda argv: run_command(nightly.parser(), argv), ["no-such-part"], "nightly: "),
    ],
)
def test_commands_fail_in_one_way(
    command: Callable[[list[str]], int], arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments) == 1
    assert capsys.readouterr().err.startswith(name)


def test_unexpected_errors_have_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise ZeroDivisionError("division\nby zero")

    def open_nothing(options: argparse.Namespace) -> int:
        return len(open("no-such-file").read())

    monkeypatch.delenv("RECFX_TRACEBACK", raising=False)
    assert run_command(parser(fail), []) == 1
    assert capsys.readouterr().err.startswith("some.command: ZeroDivisionError: division by zero\n  next:  ")
    assert run_command(parser(open_nothing), []) == 1
    assert capsys.readouterr().err.startswith("some.command: No such file or directory: no-such-file\n  next:  ")
    monkeypatch.setenv("RECFX_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run_command(parser(fail), [])


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [
        ("threads", ["0", "-1", "x", "1.5"], "1"),
        ("workers", ["0", "-1"], "4"),
        ("seed", ["-1", "x"], "0"),
        ("seconds", ["0", "-1", "nan", "inf", "x"], "0.5"),
    ],
)
def test_numbers_out_of_range(option: str, wrong: list[str], right: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text in wrong:
        with pytest.raises(SystemExit, match="2"):
            run_command(parser(lambda options: 0), [f"--{option}={text}"])
        assert f"got {text!r}" in capsys.readouterr().err
    assert run_command(parser(lambda options: 0), [f"--{option}={right}"]) == 0
