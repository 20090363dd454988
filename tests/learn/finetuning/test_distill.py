"""Distillation into a narrower model: where it starts, and what it learns."""

from __future__ import annotations

import pytest
import torch
from finetune_kit import QUICK, small
from torch import Tensor

from recfx.capture import capture
from recfx.errors import InputError
from recfx.learn import TrainSettings, distill
from recfx.zoo import DLRM


def batches(inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return [(*inputs, torch.zeros(len(inputs[0])))]


@pytest.mark.parametrize("form", ["modules", "programs"])
def test_a_narrower_student_learns_the_answers(form: str) -> None:
    teacher, inputs = small(bottom=(16,), top=(32, 16))
    student, _ = small(bottom=(8,), top=(8, 8))
    wanted = teacher(*inputs).detach()
    before = (student(*inputs) - wanted).square().mean()
    given = (teacher, student) if form == "modules" else (capture(teacher, inputs), capture(student, inputs))
    settings = TrainSettings(epochs=60, lr=1e-2, l2=0.0, progress=False)
    found = distill(*given, batches(inputs), "mse", share=1.0, settings=settings)
    assert (found.module(*inputs) - wanted).square().mean() < 0.3 * before
    assert (found.module is student) == (form == "modules")


@pytest.mark.parametrize("equal", [True, False])
def test_parameters_of_equal_shape_start_from_the_teacher(equal: bool) -> None:
    teacher, inputs = small(bottom=(16,), top=(32, 16))
    torch.manual_seed(8)
    student = DLRM.small(bottom=(8,), top=(8, 8)).eval()
    tables = [name for name, _ in teacher.named_parameters() if "embeddings" in name]
    frozen = dict(student.named_parameters())
    for name in tables:
        frozen[name].requires_grad_(False)
    distill(teacher, student, batches(inputs), settings=QUICK, start_equal=equal)
    held = dict(teacher.named_parameters())
    assert tables
    assert all(torch.equal(frozen[name], held[name]) == equal for name in tables)


def test_a_model_cannot_teach_itself() -> None:
    model, inputs = small()
    with pytest.raises(InputError, match=r"the same model"):
        distill(model, model, batches(inputs))
