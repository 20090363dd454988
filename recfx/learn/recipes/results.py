"""The results of a table: as JSON, as Markdown, on the terminal, and as a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recfx.learn.recipes.cells import FULL, Cell
from recfx.learn.recipes.measure import CUTS, Figures
from recfx.learn.recipes.plot import Point, scatter
from recfx.learn.recipes.recipe import Recipe
from recfx.learn.recipes.train import Outcome, width_of

_HEAD = (
    "bits",
    "users",
    "d",
    "how",
    *(f"Recall@{k}" for k in CUTS),
    *(f"NDCG@{k}" for k in CUTS),
    "of full",
    "items, bytes",
    "query, ms",
    "64, ms",
    "minutes",
    "",
)

_LEFT = (3, len(_HEAD) - 1)  # left-aligned columns
_LEAST_WIDTH = 150


@dataclass(frozen=True)
class Result:
    """One row.

    Attributes:
        cell: The cell of the table.
        figures: The figures; None if no training step has run.
        finished: Whether training ran to its end.
        epochs: Whole epochs trained.
        seconds: Time of training, or of rounding and its measurements.
        threads: Threads that it ran on.
    """

    cell: Cell
    figures: Figures | None
    finished: bool
    epochs: int
    seconds: float
    threads: int

    @staticmethod
    def missing(cell: Cell) -> Result:
        """Makes the row of a cell that has not begun."""
        return Result(cell, None, False, 0, 0.0, 0)

    @staticmethod
    def of(cell: Cell, outcome: Outcome, seconds: float, threads: int) -> Result:
        """Makes the row of a cell that has run."""
        epochs = 0 if outcome.report is None else len(outcome.report.losses)
        return Result(cell, outcome.figures, outcome.finished, epochs, seconds, threads)

    def as_json(self) -> dict[str, Any]:
        """Returns the row as plain JSON, with the cell's name and label."""
        return {"name": self.cell.name, "label": self.cell.label, **asdict(self)}

    @staticmethod
    def from_json(cell: Cell, document: dict[str, Any]) -> Result:
        """Makes a row from the result of `as_json`."""
        figures = document["figures"]
        if figures is not None:
            ranked = {name: {int(k): v for k, v in figures[name].items()} for name in ("recall", "ndcg")}
            figures = Figures(**{**figures, **ranked})
        rest = {name: document[name] for name in ("finished", "epochs", "seconds", "threads")}
        return Result(cell, figures, **rest)

    @property
    def state(self) -> str:
        """A note on the state of the row, for readers."""
        if self.finished:
            return ""
        return "not begun" if self.figures is None else f"UNFINISHED, {self.epochs} epochs"


@dataclass(frozen=True)
class Results:
    """A table.

    Attributes:
        data: The data's name.
        sizes: Users, items, training interactions.
        recipe: How models were trained.
        rows: One result a cell.
        minutes: The time limit of the last call; None: no limit.
        ahead: The cells that the call has not finished, starting with the current cell; empty after the call's end.
    """

    data: str
    sizes: tuple[int, int, int]
    recipe: Recipe
    rows: Sequence[Result]
    minutes: float | None = None
    ahead: tuple[Cell, ...] = ()

    @property
    def unfinished(self) -> list[Result]:
        """Rows whose training has not run to its end."""
        return [row for row in self.rows if not row.finished]

    @property
    def title(self) -> str:
        """The title of the table."""
        users, items, pairs = self.sizes
        recipe = self.recipe
        return (
            f"{self.data}: {users:,} users, {items:,} items, {pairs:,} interactions; LightGCN, d = {recipe.dim}, "
            f"{recipe.layers} layers, {recipe.epochs} epochs, students {recipe.student_epochs} more, seed {recipe.seed}"
        )

    @property
    def verdict(self) -> str:
        """A sentence on the state of the run: whether it has ended, whether its time was sufficient, and the missing
        cells."""
        if not self.unfinished:
            return "All cells are finished."
        if self.ahead:
            done = len(self.rows) - len(self.unfinished)
            now, later = self.ahead[0].name, ", ".join(cell.name for cell in self.ahead[1:])
            return (
                f"The run was still going when this was written: {done} of {len(self.rows)} cells are finished. "
                f"It is at {now}; yet to come: {later or 'none'}. If it has ended since, run the same command to continue."
            )
        budget = "The run was stopped" if self.minutes is None else f"THE BUDGET OF {self.minutes:g} MINUTES WAS SHORT"
        names = ", ".join(row.cell.name for row in self.unfinished)
        return (
            f"{budget}: {len(self.unfinished)} of {len(self.rows)} cells are unfinished ({names}). "
            "Their figures, if any, are of models whose training has not ended. Run the same command to continue."
        )

    def lines(self) -> list[list[str]]:
        """The text of each row of the table."""
        full = next((row.figures for row in self.rows if row.cell == FULL and row.finished), None)
        return [_line(row, self.recipe, full, self._state(row)) for row in self.rows]

    def _state(self, row: Result) -> str:
        """A note on the state of a row, including whether the run is at it or will run it."""
        if row.cell not in self.ahead:
            return row.state
        coming = "running" if row.cell == self.ahead[0] else "yet to come"
        return coming if row.figures is None else f"{row.state}; {coming}"

    def markdown(self) -> str:
        """The table as Markdown."""
        rule = ["---" if index in _LEFT else "---:" for index in range(len(_HEAD))]
        rows = [list(_HEAD), rule, *self.lines()]
        body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        notes = (
            "`of full`: Recall@50 over that of full precision. `bits`: of a value of an item; `users`: of a user; `d`: columns. Bytes with "
            "all constants. `query`: the first 50 items of one user, of 64 together; searches over codes round users to 8 bits. "
            f"Threads: {', '.join(sorted({str(row.threads) for row in self.rows if row.threads})) or 'none yet'}."
        )
        return f"# {self.title}\n\n{self.verdict}\n\n{body}\n\n{notes}\n"

    def write(self, folder: Path) -> None:
        """Writes `table.md`, `results.json` and `plot.svg`."""
        document = {
            "data": self.data,
            "sizes": self.sizes,
            "recipe": asdict(self.recipe),
            "verdict": self.verdict,
            "rows": [row.as_json() for row in self.rows],
        }
        points = [
            Point(
                row.figures.item_bytes,
                row.figures.recall[max(CUTS)],
                f"{row.cell.label}, {row.cell.bits} bits, d = {width_of(row.cell, self.recipe)}",
                row.cell.kind,
            )
            for row in self.rows
            if row.figures is not None
        ]
        drawn = scatter(points, "bytes of all items", f"Recall@{max(CUTS)}", self.title)
        contents = {
            "table.md": self.markdown(),
            "results.json": json.dumps(document, indent=1) + "\n",
            "plot.svg": drawn,
        }
        for name, text in contents.items():
            partial = folder / f"{name}.partial"
            partial.write_text(text)
            os.replace(partial, folder / name)

    def show(self) -> None:
        """Prints the table."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.title)
        for index, name in enumerate(_HEAD):
            table.add_column(name, justify="left" if index in _LEFT else "right")
        for line in self.lines():
            table.add_row(*line)
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, _LEAST_WIDTH)
        console.print(table)
        console.print(self.verdict, highlight=False)


def _line(row: Result, recipe: Recipe, full: Figures | None, state: str) -> list[str]:
    head = [str(row.cell.bits), str(row.cell.user_bits), str(width_of(row.cell, recipe)), row.cell.label]
    figures = row.figures
    if figures is None:
        return [*head, *[""] * (len(_HEAD) - len(head) - 1), state]
    ranked = [f"{values[k]:.4f}" for values in (figures.recall, figures.ndcg) for k in CUTS]
    most = max(CUTS)
    share = "" if full is None or not full.recall[most] else f"{100 * figures.recall[most] / full.recall[most]:.1f} %"
    times = [f"{figures.query_ms:.2f}", f"{figures.batch_ms:.1f}", f"{row.seconds / 60:.1f}"]
    return [*head, *ranked, share, f"{figures.item_bytes:,}", *times, state]
