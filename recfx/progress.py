"""Progress bars on standard error. Nothing is shown if that is not a terminal; rich is imported when the first bar is shown."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Report = Callable[[float, str], None]

_QUIET_S = 2.0


def terminal_bar(*columns: Any, console: Any = None) -> Any:
    """A `rich.progress.Progress` that disappears when it ends.

    Args:
        columns: Its columns; rich's own by default.
        console: Where to show it; standard error by default.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = console or Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives `advance(done)`. The bar appears after two seconds."""
    begun = time.perf_counter()
    move: Callable[[int], None] | None = None
    finished = 0
    with ExitStack() as stack:

        def advance(done: int) -> None:
            nonlocal finished, move
            finished += done
            if move is None and time.perf_counter() - begun > _QUIET_S:
                move = _show(stack, title, total)
            if move is not None:
                move(finished)

        yield advance


def _show(stack: ExitStack, title: str, total: int) -> Callable[[int], None]:
    bar = stack.enter_context(terminal_bar())
    task = bar.add_task(title, total=total)
    return lambda done: bar.update(task, completed=done)


@contextmanager
def stage_line(title: str) -> Iterator[Callable[[str], None]]:
    """Shows which stage of a task runs, and for how long the task has run; gives `begin(stage)`.

    The line appears after two seconds. A thread draws it, so that one long stage shows as well, and only on a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    line = _StageLine(title, sys.stderr)
    try:
        yield line.begin
    finally:
        line.end()


class _StageLine:
    """A line that a timer shows.

    Args:
        title: The title of the task.
        screen: Where to show it. Stages may redirect standard error while the line is shown.
    """

    def __init__(self, title: str, screen: Any) -> None:
        self._title, self._screen, self._stage = title, screen, ""
        self._bar: Any = None
        self._task: Any = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(_QUIET_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def begin(self, stage: str) -> None:
        """Names the stage that runs now."""
        with self._lock:
            self._stage = stage
            if self._bar is not None:
                self._bar.update(self._task, description=f"{self._title}: {stage}")

    def end(self) -> None:
        """Removes the line."""
        self._timer.cancel()
        self._timer.join()
        if self._bar is not None:
            self._bar.stop()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        bar = Progress(
            *columns,
            console=Console(file=self._screen),
            transient=True,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with self._lock:
            self._bar, self._task = bar, bar.add_task(f"{self._title}: {self._stage}", total=None)
            bar.start()


@contextmanager
def training_bar(wanted: bool) -> Iterator[Report]:
    """A bar with the time that is left, or no bar; gives `report(share done, status)`."""
    if not wanted:
        yield lambda share, status: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    status = TextColumn("{task.description}")
    with terminal_bar(TextColumn("training"), BarColumn(), status, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, text: bar.update(task, completed=min(share, 1.0), description=text)
