"""A teacher: a better model whose answers a run learns, such as the model before it was pruned (Hinton et al. 2015).

On little data, labels alone make a trained model fit its training rows more closely and predict others worse; the answers of the model
before pruning do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.ir.program import Program
from recfx.learn.finetuning.loader import Labelled
from recfx.learn.finetuning.task_loss import LOSSES, TaskLoss

#: Name of a loss -> the labels that a teacher's outputs stand for.
_TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "bce": torch.sigmoid,
    "bce-probabilities": lambda outputs: outputs,
    "mse": lambda outputs: outputs,
}


class Teacher:
    """A teacher's term of a loss.

    Args:
        model: A program, a module in eval mode or a compiled model, called with the inputs of a batch.
        loss: The loss of the task. For a name of `LOSSES`, the term is the same loss with the teacher's answers as labels; for a
            function, it is the mean squared difference of the outputs.
        share: The weight of the term; the task's own loss has the rest.

    Attributes:
        model: The model.
        share: The weight.

    Raises:
        InputError: The share is not above 0 and at most 1, or the teacher is in training mode or cannot be called.
    """

    def __init__(self, model: Any, loss: str | TaskLoss, share: float) -> None:
        if not 0 < share <= 1:
            raise InputError(
                f"teacher_share must be above 0 and at most 1, got {share}",
                where="finetune",
                hint="leave out the teacher for 0",
            )
        if not callable(model):
            raise InputError(
                f"a teacher is a program or a module, got {type(model).__name__}",
                where="finetune",
                hint="pass the model before it was pruned, or its program",
            )
        if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
            raise InputError(
                "the teacher is in training mode", where=type(model).__name__, hint="call teacher.eval() first"
            )
        self.model = model
        name = loss if isinstance(loss, str) else "mse"
        self._loss, self._target = LOSSES[name], _TARGETS[name]
        self.share = share

    def answers(self, batch: Labelled) -> Tensor:
        """The teacher's outputs for a batch.

        Raises:
            InputError: They are not one finite tensor.
        """
        with torch.no_grad():
            outputs = self.model(*batch.args, **batch.kwargs)
        if not isinstance(outputs, Tensor) or not bool(outputs.isfinite().all()):
            got = "NaN or infinities" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InputError(
                f"expected one tensor of finite numbers from the teacher, got {got}",
                where=type(self.model).__name__,
                hint="pass a module that returns one tensor of outputs",
            )
        return outputs

    def term(self, outputs: Any, batch: Labelled) -> Tensor:
        """The loss of outputs against the teacher's answers."""
        return self._loss(outputs, self._target(self.answers(batch)))


def teacher_of(model: Program | nn.Module | None, loss: str | TaskLoss, share: float) -> Teacher | None:
    """The teacher, if there is one.

    Raises:
        InputError: See `Teacher`.
    """
    return None if model is None else Teacher(model, loss, share)
