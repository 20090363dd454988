"""`recfx bench hqgnn`: full precision and every quantiser at every width, on one data set, with one result per cell.

folder/
  settings.json     settings that all results share
  full-fp32-32.safetensors   a model in full precision, by the name of its cell
  cells/NAME.json   a result; `finished` is false if the time was up
  cells/NAME.safetensors   the codes of users and items, see `recfx.learn.recipes.tables`
  runs/NAME/        checkpoints of a cell that has not finished
  table.md, results.json, plot.svg
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recfx.data import Interactions
from recfx.errors import InputError
from recfx.learn import QuantizedModel
from recfx.learn.recipes.cells import FULL, WIDE, Cell
from recfx.learn.recipes.files import read_json, write_json
from recfx.learn.recipes.measure import measure_codes
from recfx.learn.recipes.recipe import Recipe, load_bench_data
from recfx.learn.recipes.results import Result, Results
from recfx.learn.recipes.tables import load_tables, save_tables
from recfx.learn.recipes.train import (
    Outcome,
    Tables,
    Teacher,
    model_of,
    refine,
    round_afterwards,
    set_weights,
    teacher_of,
    train,
)


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        data: A name of `recfx.learn.recipes.recipe.DATA`, or a path.
        folder: The folder of the results; a run continues with the missing results.
        recipe: How models are trained.
        cells: The rows of the table; `FULL` among them.
        minutes: The time limit of the call; None: no limit.
    """

    data: str
    folder: Path
    recipe: Recipe
    cells: Sequence[Cell]
    minutes: float | None = None


def run_hqgnn(options: Options) -> Results:
    """Runs the missing cells of the table within the time limit.

    Returns:
        All results so far, including those of earlier runs. They are also written to the folder.

    Raises:
        InputError: The folder holds results of other data or settings, or the cells lack full precision.
        ArtifactError: A result in the folder is damaged.
        DataError: The data are missing or malformed.
    """
    if FULL not in options.cells:
        raise InputError(
            "the table lacks the cell in full precision, from which all others start",
            where="recfx bench hqgnn",
            hint="add the cell to the table",
        )
    if (WIDE in options.cells) != bool(options.recipe.wide):
        raise InputError(
            f"the recipe's wider model has {options.recipe.wide} columns, but the cells are "
            f"{'with' if WIDE in options.cells else 'without'} it",
            where="recfx bench hqgnn",
            hint="make the cells by cells(..., wide=recipe.wide > 0)",
        )
    alone = [cell.name for cell in options.cells if cell.refined and replace(cell, refined=False) not in options.cells]
    if alone:
        raise InputError(
            f"{alone[0]} needs the same cell without refinement, which is missing",
            where="recfx bench hqgnn",
            hint="add the cell to the table",
        )
    if any(cell.refined for cell in options.cells) and not (options.recipe.refined and options.recipe.ranks):
        raise InputError(
            "refined cells need first items of a model, but the recipe's `ranks` or `refined` is 0",
            where="recfx bench hqgnn",
            hint="set `ranks` and `refined` in the recipe, or leave out refined cells",
        )
    return _Run(options, load_bench_data(options.data)).results()


class _Run:
    """One call: it runs cell after cell until all are finished or the time is up.

    Args:
        options: The options of the run.
        data: The interactions.
    """

    def __init__(self, options: Options, data: Interactions) -> None:
        self._options, self._data, self._folder = options, data, options.folder
        self._ends = None if options.minutes is None else time.monotonic() + 60 * options.minutes
        self._full: dict[Cell, QuantizedModel] = {}
        self._teachers: dict[tuple[Cell, Cell], Teacher] = {}
        for part in ("cells", "runs"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        self._check_settings()

    def results(self) -> Results:
        """Runs the cells."""
        for cell in self._options.cells:
            known = self._known(cell)
            if known is not None and known.finished:
                continue
            if self._seconds_left() <= 0:
                break
            self._collect(cell).write(self._folder)
            self._run(cell)
        results = self._collect(None)
        results.write(self._folder)
        return results

    def _collect(self, at: Cell | None) -> Results:
        """Returns the table so far. `at` is the next cell to run; None: no cell follows."""
        cells = list(self._options.cells)
        rows = [self._known(cell) or Result.missing(cell) for cell in cells]
        ahead = () if at is None else tuple(row.cell for row in rows[cells.index(at) :] if not row.finished)
        return Results(self._options.data, self._sizes(), self._options.recipe, rows, self._options.minutes, ahead)

    def _seconds_left(self) -> float:
        return math.inf if self._ends is None else self._ends - time.monotonic()

    def _run(self, cell: Cell) -> None:
        """Runs a cell and writes its result; does nothing if a model that it starts from or learns from is missing."""
        seconds = None if self._ends is None else self._seconds_left()
        begun = time.perf_counter()
        if not all(self._is_finished(other) for other in self._needed(cell)):
            return
        if cell.refined:
            teacher = self._teacher(FULL, self._ranker() if cell.kind == "trained" else FULL)
            tables = load_tables(self._codes(replace(cell, refined=False)))
            outcome = self._measured(cell, refine(tables, teacher, self._data, self._options.recipe))
        elif cell.kind == "full":
            outcome = self._train(cell, seconds, None)
        elif cell.kind == "rounded":
            outcome = self._measured(cell, round_afterwards(cell, self._full_model(FULL), self._options.recipe))
        else:
            outcome = self._train(cell, seconds, self._teacher(WIDE if cell.wide else FULL, self._ranker()))
        spent = time.perf_counter() - begun if outcome.report is None else outcome.report.seconds
        result = Result.of(cell, outcome, spent, torch.get_num_threads())
        write_json(self._folder / "cells" / f"{cell.name}.json", result.as_json())
        if result.finished:
            shutil.rmtree(self._folder / "runs" / cell.name, ignore_errors=True)

    def _needed(self, cell: Cell) -> tuple[Cell, ...]:
        """The cells that must be finished before a cell."""
        if cell.kind == "full":
            return ()
        before = (FULL, self._ranker()) if cell.kind == "trained" else (FULL,)
        return (*before, replace(cell, refined=False)) if cell.refined else before

    def _measured(self, cell: Cell, tables: Tables) -> Outcome:
        save_tables(self._codes(cell), *tables)
        return Outcome(measure_codes(*tables, self._data), None, True)

    def _train(self, cell: Cell, seconds: float | None, teacher: Teacher | None) -> Outcome:
        folder = self._folder / "runs" / cell.name
        model, outcome = train(cell, self._data, self._options.recipe, folder, seconds, teacher)
        if cell.kind == "full" and outcome.finished:
            weights = {name: weight.detach().contiguous() for name, weight in model.encoder.named_parameters()}
            partial = self._weights(cell).with_suffix(".partial")
            save_file(weights, partial)
            os.replace(partial, self._weights(cell))
            self._full[cell] = model
        elif outcome.finished:
            save_tables(self._codes(cell), *model.tables())
        return outcome

    def _codes(self, cell: Cell) -> Path:
        return self._folder / "cells" / f"{cell.name}.safetensors"

    def _weights(self, full: Cell) -> Path:
        return self._folder / f"{full.name}.safetensors"

    def _ranker(self) -> Cell:
        """The cell of the model whose first items students learn."""
        return WIDE if self._options.recipe.wide else FULL

    def _is_finished(self, cell: Cell) -> bool:
        known = self._known(cell)
        return known is not None and known.finished

    def _full_model(self, full: Cell) -> QuantizedModel:
        if full not in self._full:
            model = model_of(full, self._data, self._options.recipe)
            set_weights(model, load_file(self._weights(full)))
            self._full[full] = model.eval()
        return self._full[full]

    def _teacher(self, full: Cell, ranker: Cell) -> Teacher:
        """The weights of `full`, from which students start, and the first items of `ranker`, which they learn or are
        refined for."""
        if (full, ranker) not in self._teachers:
            models = (self._full_model(full), self._full_model(ranker))
            self._teachers[full, ranker] = teacher_of(*models, self._data, self._options.recipe)
        return self._teachers[full, ranker]

    def _known(self, cell: Cell) -> Result | None:
        file = self._folder / "cells" / f"{cell.name}.json"
        return Result.from_json(cell, read_json(file)) if file.is_file() else None

    def _sizes(self) -> tuple[int, int, int]:
        return self._data.n_users, self._data.n_items, len(self._data.train_indices)

    def _check_settings(self) -> None:
        """Checks that the results in the folder are of the same data and recipe."""
        wanted: dict[str, Any] = {
            "data": self._options.data,
            "sizes": list(self._sizes()),
            "recipe": asdict(self._options.recipe),
        }
        file = self._folder / "settings.json"
        if not file.is_file():
            write_json(file, wanted)
            return
        found = read_json(file)
        # If a folder was written before a setting existed, its results have the default of that setting.
        found["recipe"] = {**asdict(Recipe()), **found.get("recipe", {})}
        other = sorted(name for name in wanted if found.get(name) != wanted[name])
        if other:
            raise InputError(
                f"the folder holds results of other settings: {', '.join(other)}",
                where=str(file),
                hint="give another folder, or the settings of its results",
            )
