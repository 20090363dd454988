"""Distillation: a narrower model of the same class learns the answers of a trained one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from recfx.errors import InputError
from recfx.ir.program import Program
from recfx.learn.finetuning.finetune import FineTuned, finetune, module_of
from recfx.learn.finetuning.task_loss import TaskLoss


def distill(
    teacher: Program | nn.Module,
    student: Program | nn.Module,
    loader: Iterable[Any],
    loss: str | TaskLoss = "bce",
    *,
    share: float = 0.5,
    start_equal: bool = True,
    **training: Any,
) -> FineTuned:
    """Trains a student on the answers of a teacher and on labels.

    Args:
        teacher: A trained model.
        student: A smaller model that takes the same inputs. A module is trained in place.
        loader: See `finetune`.
        loss: See `finetune`.
        share: The weight of the teacher's answers in the loss, above 0 and at most 1.
        start_equal: Whether parameters of the student start from the teacher's of equal name and shape, such as embedding tables.
        **training: Other arguments of `finetune`.

    Returns:
        The trained student and the report.

    Raises:
        InputError: The two are the same module; or see `finetune`.
    """
    if teacher is student:
        raise InputError(
            "teacher and student are the same model", where="distill", hint="make the student as a model of its own"
        )
    module = module_of(student)
    if start_equal:
        held = teacher.state() if isinstance(teacher, Program) else dict(teacher.named_parameters())
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                source = held.get(name)
                if source is not None and source.shape == parameter.shape:
                    parameter.copy_(source)
    return finetune(module, loader, loss, teacher=teacher, teacher_share=share, **training)
