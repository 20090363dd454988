"""Progress bars appear only on terminals, and only after some time."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from recfx import progress


@pytest.mark.parametrize(("quiet", "shown"), [(60.0, False), (0.0, True)])
def test_a_bar_appears_on_a_terminal_after_a_while(quiet: float, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "_QUIET_S", quiet)
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=screen, force_terminal=True))
    with progress.progress("packing", 10) as advance:
        advance(4)
        advance(6)
    assert ("packing" in screen.getvalue()) is shown


def test_no_bar_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    with progress.progress("packing", 10) as advance:
        advance(10)
    assert capsys.readouterr().err.strip() == ""


def test_a_training_bar_shows_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    with progress.training_bar(True) as report:
        report(0.5, "epoch 2")
    assert "training" in screen.getvalue()
    assert "epoch 2" in screen.getvalue()


def test_a_training_bar_that_nobody_wants_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.training_bar(False) as report:
        report(0.5, "epoch 2")
    assert capsys.readouterr() == ("", "")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        """Claims to be a terminal."""
        return True


@pytest.mark.parametrize(("quiet", "shown"), [(60.0, False), (0.0, True)])
def test_a_stage_appears_on_a_terminal_after_a_while(
    quiet: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = _Terminal()
    monkeypatch.setattr(progress, "_QUIET_S", quiet)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen)
    with progress.stage_line("optimizing Net") as begin:
        begin("capture")
        _wait_for(lambda: not shown or "capture" in screen.getvalue())
        with contextlib.redirect_stderr(io.StringIO()):  # as stages do
            begin("pass fuse-mlp")
            _wait_for(lambda: not shown or "pass fuse-mlp" in screen.getvalue())
    assert ("optimizing Net: pass fuse-mlp" in screen.getvalue()) is shown
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_no_stage_is_shown_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    with progress.stage_line("optimizing Net") as begin:
        begin("capture")
    assert capsys.readouterr().err == ""


def _wait_for(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not met() and time.monotonic() < end:
        time.sleep(0.02)
