"""The models of cells: what students start from and learn, their settings, and rounding afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from learn_kit import planted

from recfx.data import Interactions
from recfx.learn import QuantizedModel, Trainer, teacher_top
from recfx.learn.recipes import FULL, WIDE, Cell, Recipe
from recfx.learn.recipes import train as made
from recfx.learn.recipes.train import model_of, refine, round_afterwards, set_weights, teacher_of, train, width_of

RECIPE = Recipe(
    dim=8,
    layers=1,
    batch=100,
    negatives=2,
    epochs=3,
    student_epochs=1,
    lr=0.02,
    student_lr=0.06,
    ranks=5,
    refined=12,
    wide=16,
    decay=0.3,
)
STUDENT = Cell("trained", 2, "gste", "per-row")


@pytest.fixture(scope="module")
def data() -> Interactions:
    return planted(60, 40)


@pytest.fixture(scope="module")
def full(data: Interactions) -> QuantizedModel:
    return model_of(FULL, data, RECIPE)


class Recorded(Trainer):
    """A trainer that keeps what it was made from."""

    made: ClassVar[list[tuple[tuple[Any, ...], dict[str, Any], dict[str, torch.Tensor]]]] = []

    def __init__(self, model: QuantizedModel, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.made.append(
            ((model, *args), kwargs, {name: held.clone() for name, held in model.encoder.named_parameters()})
        )


@pytest.mark.parametrize(
    ("ranks", "refined", "read"), [(5, 12, 12), (12, 0, 12), (9, 9, 9), (5, 400, 40), (400, 5, 40)]
)
def test_a_teacher_ranks_items_that_are_not_of_the_training(
    ranks: int, refined: int, read: int, data: Interactions, full: QuantizedModel
) -> None:
    found = teacher_of(full, full, data, replace(RECIPE, ranks=ranks, refined=refined))
    assert found.top is not None
    assert found.top.shape == (data.n_users, read)
    assert torch.equal(
        found.top, teacher_top(*full.embeddings(), read, exclude=(data.train_indptr, data.train_indices))
    )
    seen = {(int(user), int(item)) for user, item in zip(*data.train_pairs(), strict=True)}
    free = data.n_items - int(data.train_indptr.diff().max())
    assert not seen & {(user, int(item)) for user, row in enumerate(found.top) for item in row[:free]}


def test_a_teacher_has_the_weights_of_one_model_and_the_ranks_of_another(
    data: Interactions, full: QuantizedModel
) -> None:
    wide = model_of(WIDE, data, RECIPE)
    found = teacher_of(full, wide, data, RECIPE)
    assert {name: tuple(held.shape) for name, held in found.weights.items()} == {
        name: tuple(held.shape) for name, held in full.encoder.named_parameters()
    }
    assert found.top is not None
    exclude = data.train_indptr, data.train_indices
    assert torch.equal(found.top, teacher_top(*wide.embeddings(), 12, exclude=exclude))
    assert not torch.equal(found.top, teacher_top(*full.embeddings(), 12, exclude=exclude))
    before = {name: held.clone() for name, held in found.weights.items()}
    with torch.no_grad():
        for held in full.encoder.parameters():
            held += 1
    assert all(torch.equal(before[name], held) for name, held in found.weights.items()), "the weights are copies"
    set_weights(full, found.weights)
    assert all(torch.equal(before[name], held) for name, held in full.encoder.named_parameters())


def test_without_ranks_there_is_no_distillation(data: Interactions, full: QuantizedModel) -> None:
    assert teacher_of(full, full, data, replace(RECIPE, ranks=0)).top is None


@pytest.mark.parametrize(
    ("cell", "epochs", "lr"),
    [(FULL, 3, 0.02), (STUDENT, 1, 0.02), (replace(STUDENT, bits=1), 1, 0.06), (replace(STUDENT, bits=4), 1, 0.004)],
)
@pytest.mark.parametrize("ranks", [0, 5])
def test_the_settings_of_a_cell(
    cell: Cell,
    epochs: int,
    lr: float,
    ranks: int,
    data: Interactions,
    full: QuantizedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(RECIPE, ranks=ranks, seed=3, l2=0.25)
    teacher = None if cell is FULL else teacher_of(full, full, data, recipe)
    monkeypatch.setattr(made, "Trainer", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    model, outcome = train(cell, data, recipe, tmp_path, 60.0, teacher)
    (((given, sampler, settings), named, started),) = Recorded.made
    assert given is model
    users, _, negatives = next(iter(sampler(torch.Generator())))
    assert (users.shape, negatives.shape) == ((100,), (100, 2))
    assert (settings.epochs, settings.cosine_epochs, settings.seed, settings.seconds) == (epochs, epochs, 3, 60.0)
    assert settings.lr == pytest.approx(lr)
    assert settings.l2 == 0.25
    assert named["folder"] == tmp_path
    distillation = named["distillation"]
    if teacher is None or not ranks:
        assert distillation is None
    else:
        assert teacher.top is not None
        assert torch.equal(distillation.top, teacher.top[:, :5])
        assert distillation.decay == 0.3
    if teacher is not None:
        assert all(torch.equal(held, teacher.weights[name]) for name, held in started.items())
    assert outcome.finished
    assert outcome.report is not None
    assert outcome.figures is not None
    assert outcome.report.steps


def test_training_without_time_has_no_figures(data: Interactions, tmp_path: Path) -> None:
    _, outcome = train(FULL, data, RECIPE, tmp_path, 0.0, None)
    assert outcome.report is not None
    assert (outcome.finished, outcome.figures is None) == (False, not outcome.report.steps)


@pytest.mark.parametrize(("wide", "width"), [(False, 8), (True, 16)])
def test_widths_and_quantisers(wide: bool, width: int, data: Interactions) -> None:
    cell = replace(STUDENT, wide=wide, user_bits=8)
    assert width_of(cell, RECIPE) == width
    model = model_of(cell, data, RECIPE)
    assert model.user_quantizer is not None
    assert model.item_quantizer is not None
    assert (model.user_quantizer.bits, model.item_quantizer.bits) == (8, 2)
    assert {held.shape[1] for held in model.embeddings()} == {width}
    assert not model_of(replace(cell, kind="rounded", method="rows", bounds=""), data, RECIPE).quantizers()


@pytest.mark.parametrize("user_bits", [1, 8])
def test_users_are_rounded_to_their_own_bits(user_bits: int, data: Interactions, full: QuantizedModel) -> None:
    users, items = round_afterwards(Cell("rounded", 1, "rows", user_bits=user_bits), full, RECIPE)
    assert (users.bits, items.bits) == (user_bits, 1)


def test_refinement_turns_signs_of_users_for_items_that_are_not_of_the_training(
    data: Interactions, full: QuantizedModel
) -> None:
    recipe = replace(RECIPE, ranks=3, seed=5)
    teacher = teacher_of(full, full, data, recipe)
    tables = round_afterwards(Cell("rounded", 1, "rows"), full, recipe)
    users, items = refine(tables, teacher, data, recipe)
    assert items is tables[1]
    assert teacher.top is not None
    exclude = data.train_indptr, data.train_indices
    expected = made.refine_signs(*tables, teacher.top[:, :12], exclude=exclude, ranks=3, seed=5)
    assert torch.equal(users.codes, expected.codes)
    assert not torch.equal(users.codes, tables[0].codes)
    everything = torch.zeros(data.n_users + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert not torch.equal(
        users.codes, made.refine_signs(*tables, teacher.top[:, :12], exclude=everything, ranks=3, seed=5).codes
    )
