"""A progress line on the terminal, and results that are saved during the run."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from benchmarks.results import Point, Results
from benchmarks.settings import Watcher
from recfx.progress import terminal_bar


class ProgressLine(Watcher):
    """Shows the current point on standard error if that is a terminal.

    Args:
        points: The number of points.
        out: The file that always holds the results so far.
        console: The console that shows the line.
    """

    def __init__(self, points: int, out: Path | None = None, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = terminal_bar(*columns, console=console)
        self._task = self._progress.add_task("starting", total=points)
        self._out = out

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, point: Point, doing: str) -> None:
        where = f"{point.case}, batch {point.batch}, {point.ids()}, threads {point.threads}"
        self._progress.update(self._task, description=f"{where}: {doing}")

    def done(self, point: Point) -> None:
        self._progress.advance(self._task)

    def changed(self, results: Results) -> None:
        if self._out is not None:
            results.save(self._out)
