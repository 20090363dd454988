"""Compares two estimators of gradients over several seeds: the students start from one full-precision model and train
on the same samples.

`python -m benchmarks estimators --data gowalla`. The results of a seed are a pair; the report is the mean difference of the pairs
with Student's interval.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.markdown import markdown
from recfx.data import Interactions
from recfx.errors import InputError
from recfx.learn import ESTIMATORS
from recfx.learn.recipes import FULL, Cell, Recipe, load_bench_data, recipe_of
from recfx.learn.recipes.files import read_json, write_json
from recfx.learn.recipes.train import Teacher, measure_model, model_of, set_weights, teacher_of, train

_CONFIDENCE = 0.95
_CUT = 50


@dataclass(frozen=True)
class Plan:
    """The comparison.

    Attributes:
        data: See `recfx.learn.recipes.load_bench_data`.
        folder: Results so far and the full-precision model; a run continues with the missing results.
        seeds: The number of seeds, from 0 on.
        bits: Bits of both users and items.
        bounds: Bounds of the quantisers.
        pair: The estimators; the report gives the second minus the first.
        epochs: Epochs of a student, instead of the recipe's.
        lr: Learning rate of a student at 1 bit, instead of the recipe's.
    """

    data: str
    folder: Path
    seeds: int = 5
    bits: Sequence[int] = (1, 2)
    bounds: str = "centred-row"
    pair: Sequence[str] = ("ste", "gste")
    epochs: int | None = None
    lr: float | None = None

    @property
    def recipe(self) -> Recipe:
        """How the models are trained: all at one width, since only estimators are compared."""
        found = replace(recipe_of(self.data), wide=0)
        found = found if self.epochs is None else replace(found, student_epochs=self.epochs)
        return found if self.lr is None else replace(found, student_lr=self.lr)


def compare(plan: Plan) -> str:
    """Runs the missing pairs and returns the table, as Markdown.

    Raises:
        InputError: There are fewer than two seeds, the pair is not two different estimators, or the folder holds
            results of another plan.
    """
    if plan.seeds < 2:
        raise InputError(
            "an interval needs at least two seeds",
            where="benchmarks.papers.estimators",
            hint="run the case with two seeds or more",
        )
    if len(plan.pair) != 2 or not set(plan.pair) <= set(ESTIMATORS):
        known = ", ".join(ESTIMATORS)
        raise InputError(
            f"{', '.join(plan.pair)}: not two estimators", where="benchmarks.papers.estimators", hint=f"two of {known}"
        )
    plan.folder.mkdir(parents=True, exist_ok=True)
    _check_recipe(plan)
    data = load_bench_data(plan.data)
    teacher, full = _teacher(plan, data)
    rows = []
    for bits in plan.bits:
        values = [[_recall(plan, data, teacher, seed, bits, name) for name in plan.pair] for seed in range(plan.seeds)]
        rows.append(_row(plan, bits, full, values))
    first, second = plan.pair
    head = ["data", "bits", "full precision", first, second, "difference", f"{_CONFIDENCE:.0%} interval", "better in"]
    return markdown(head, rows, {1, 2, 3, 4, 5})


def _row(plan: Plan, bits: int, full: float, values: Sequence[Sequence[float]]) -> list[str]:
    ones, others = zip(*values, strict=True)
    apart = [b - a for a, b in values]
    mean, reach = statistics.fmean(apart), _reach(apart)
    return [
        plan.data,
        str(bits),
        f"{full:.4f}",
        f"{statistics.fmean(ones):.4f}",
        f"{statistics.fmean(others):.4f}",
        f"{mean:+.4f}",
        f"{mean - reach:+.4f} to {mean + reach:+.4f}",
        f"{sum(x > 0 for x in apart)} of {len(apart)}",
    ]


def _reach(apart: Sequence[float]) -> float:
    """Half of Student's interval for the mean."""
    from scipy import stats

    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(apart) - 1))
    return float(quantile * statistics.stdev(apart) / len(apart) ** 0.5)


def _recall(plan: Plan, data: Interactions, teacher: Teacher, seed: int, bits: int, estimator: str) -> float:
    """Recall@50 of a student, which is trained or read from an earlier run."""
    cell = Cell("trained", bits, estimator, plan.bounds)
    file = plan.folder / f"{cell.name}-{seed}.json"
    if not file.is_file():
        recipe = replace(plan.recipe, seed=seed)
        figures = train(cell, data, recipe, plan.folder / "runs" / file.stem, None, teacher)[1].figures
        assert figures is not None  # always true: without a time limit, training takes steps
        write_json(file, {"recall": figures.recall[_CUT]})
    return float(read_json(file)["recall"])


def _teacher(plan: Plan, data: Interactions) -> tuple[Teacher, float]:
    """The full-precision model, trained or read from an earlier run, and its Recall@50."""
    file, recipe = plan.folder / "teacher.safetensors", plan.recipe
    model = model_of(FULL, data, recipe)
    if file.is_file():
        set_weights(model, load_file(file))
        model.eval()
    else:
        model = train(FULL, data, recipe, plan.folder / "runs" / "teacher", None, None)[0]
        partial = file.with_suffix(".partial")
        save_file({name: weight.detach().contiguous() for name, weight in model.encoder.named_parameters()}, partial)
        os.replace(partial, file)
    return teacher_of(model, model, data, recipe), measure_model(model, data).recall[_CUT]


def _check_recipe(plan: Plan) -> None:
    wanted = {"data": plan.data, "bounds": plan.bounds, "recipe": asdict(plan.recipe)}
    file = plan.folder / "plan.json"
    if not file.is_file():
        write_json(file, wanted)
    elif read_json(file) != wanted:
        raise InputError("the folder holds results of another plan", where=str(file), hint="give another folder")
