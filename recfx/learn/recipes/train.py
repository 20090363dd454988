"""Makes the model of one cell: trained, or rounded from the model in full precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from recfx.data import BprSampler, Interactions
from recfx.learn import (
    EpochSampler,
    QuantizedModel,
    QuantizedTable,
    RankedDistillation,
    SampledSoftmax,
    Trainer,
    TrainReport,
    TrainSettings,
    make_quantizer,
    teacher_top,
)
from recfx.learn.post_training import refine_signs, round_tables
from recfx.learn.propagation import accelerate_propagation
from recfx.learn.recipes.cells import Cell
from recfx.learn.recipes.measure import Figures, measure_codes, measure_full
from recfx.learn.recipes.recipe import Recipe
from recfx.zoo import LightGCN

_CHECKPOINT_S = 30.0

Tables = tuple[QuantizedTable, QuantizedTable]


@dataclass(frozen=True)
class Teacher:
    """The inputs of students from models in full precision.

    Attributes:
        weights: The parameters of an encoder of the students' width.
        top: int64 [U, R], the first items of each user by that encoder or a wider one, without the items of training. R
            is the greater number of those for distillation and refinement. None if the recipe has no distillation.
    """

    weights: dict[str, torch.Tensor]
    top: torch.Tensor | None


@dataclass(frozen=True)
class Outcome:
    """The result of running a cell.

    Attributes:
        figures: The figures; None if training stopped before its first step.
        report: The report of training; None for a rounded model.
        finished: Whether training ran to its end.
    """

    figures: Figures | None
    report: TrainReport | None
    finished: bool


def model_of(cell: Cell, data: Interactions, recipe: Recipe) -> QuantizedModel:
    """The untrained model of a cell in full precision or with quantisers."""
    torch.manual_seed(recipe.seed)
    encoder = LightGCN.for_interactions(
        data.n_users, data.n_items, *data.train_pairs(), dim=width_of(cell, recipe), layers=recipe.layers
    )
    accelerate_propagation(encoder)
    if cell.kind != "trained":
        return QuantizedModel(encoder)
    users, items = (
        make_quantizer(bits, cell.method, cell.bounds, dim=width_of(cell, recipe))
        for bits in (cell.user_bits, cell.bits)
    )
    return QuantizedModel(encoder, users, items)


def width_of(cell: Cell, recipe: Recipe) -> int:
    """Columns of a cell's model."""
    return recipe.wide if cell.wide else recipe.dim


def train(
    cell: Cell, data: Interactions, recipe: Recipe, folder: Path, seconds: float | None, teacher: Teacher | None
) -> tuple[QuantizedModel, Outcome]:
    """Trains a cell's model, or continues its training.

    Args:
        cell: A cell in full precision, or a cell of a model with quantisers.
        data: The interactions.
        recipe: How to train.
        folder: The folder of checkpoints.
        seconds: The time limit; None: no limit.
        teacher: The model that a student starts from; None in full precision.
    """
    model = model_of(cell, data, recipe)
    if teacher is not None:
        set_weights(model, teacher.weights)
    full = cell.kind == "full"
    epochs = recipe.epochs if full else recipe.student_epochs
    settings = TrainSettings(
        epochs=epochs,
        cosine_epochs=epochs,
        lr=recipe.lr if full else recipe.student_lr / ((1 << cell.bits) - 1),
        l2=recipe.l2,
        seed=recipe.seed,
        seconds=seconds,
        checkpoint_seconds=_CHECKPOINT_S,
    )
    top = None if teacher is None or teacher.top is None else teacher.top[:, : recipe.ranks]
    report = Trainer(
        model,
        EpochSampler(BprSampler(data, recipe.negatives), recipe.batch),
        settings,
        loss=SampledSoftmax(),
        distillation=None if top is None else RankedDistillation(top, decay=recipe.decay),
        folder=folder,
    ).run()
    figures = None if not report.steps else measure_model(model, data)
    return model, Outcome(figures, report, report.stopped != "time")


def measure_model(model: QuantizedModel, data: Interactions) -> Figures:
    """The figures of a model in full precision or with quantisers."""
    return measure_codes(*model.tables(), data) if model.quantizers() else measure_full(*model.embeddings(), data)


def set_weights(model: QuantizedModel, weights: dict[str, torch.Tensor]) -> None:
    """Copies the weights of another encoder of the same kind into the model's encoder."""
    own = dict(model.encoder.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def teacher_of(model: QuantizedModel, ranker: QuantizedModel, data: Interactions, recipe: Recipe) -> Teacher:
    """Makes the inputs of students from a trained model of their width and the model whose first items they learn."""
    weights = {name: weight.detach().clone() for name, weight in model.encoder.named_parameters()}
    if not recipe.ranks:
        return Teacher(weights, None)
    ranks = min(max(recipe.ranks, recipe.refined), data.n_items)
    return Teacher(weights, teacher_top(*ranker.embeddings(), ranks, exclude=_seen(data)))


def round_afterwards(cell: Cell, model: QuantizedModel, recipe: Recipe) -> Tables:
    """Rounds the model in full precision."""
    users, items = round_tables(cell.method, *model.embeddings(), cell.bits, seed=recipe.seed)
    if cell.user_bits != cell.bits:
        users = round_tables(cell.method, *model.embeddings(), cell.user_bits, seed=recipe.seed)[0]
    return users, items


def refine(tables: Tables, teacher: Teacher, data: Interactions, recipe: Recipe) -> Tables:
    """Turns signs of users for the first items of a model in full precision."""
    users, items = tables
    assert teacher.top is not None
    top = teacher.top[:, : recipe.refined]
    return refine_signs(users, items, top, exclude=_seen(data), ranks=recipe.ranks, seed=recipe.seed), items


def _seen(data: Interactions) -> tuple[torch.Tensor, torch.Tensor]:
    return data.train_indptr, data.train_indices
