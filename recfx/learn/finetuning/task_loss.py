"""The loss of a task: of a model's outputs and the labels of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from recfx.errors import InputError

#: A loss: the outputs of the model, the labels -> a scalar.
TaskLoss = Callable[[Any, Any], Tensor]

#: The fewest outputs of which it can be said that they look like probabilities.
_TELLING = 32
_HINT = "return one output for each label, or pass loss=a function of the model's outputs and the labels"


def logits_bce(outputs: Any, labels: Any) -> Tensor:
    """Mean binary cross-entropy of logits and labels from 0 to 1."""
    outputs, labels = _fitting(outputs, labels)
    _require_shares(labels)
    return functional.binary_cross_entropy_with_logits(outputs, labels)


def probabilities_bce(outputs: Any, labels: Any) -> Tensor:
    """Mean binary cross-entropy of probabilities and labels from 0 to 1."""
    outputs, labels = _fitting(outputs, labels)
    _require_shares(labels)
    if bool(((outputs < 0) | (outputs > 1)).any()):
        raise InputError(
            "the model gives values outside 0 to 1, which are not probabilities",
            where="loss='bce-probabilities'",
            hint="pass loss='bce' for a model that gives logits",
        )
    return functional.binary_cross_entropy(outputs, labels)


def mean_square(outputs: Any, labels: Any) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(*_fitting(outputs, labels))


#: Losses by name.
LOSSES: dict[str, TaskLoss] = {"bce": logits_bce, "bce-probabilities": probabilities_bce, "mse": mean_square}


def are_probabilities(outputs: Any) -> bool:
    """Whether the outputs of a batch look like probabilities where logits are expected: at least `_TELLING` of them, all from 0 to 1."""
    if not isinstance(outputs, Tensor) or outputs.numel() < _TELLING:
        return False
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def task_loss(loss: str | TaskLoss) -> TaskLoss:
    """A loss by its name, or a loss as it is.

    Raises:
        InputError: The name is unknown, or the loss cannot be called.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise InputError(
            f"the loss {loss!r} is unknown", where="finetune", hint=f"one of {', '.join(LOSSES)}, or a function"
        )
    return LOSSES[loss]


def scalar(loss: Any) -> Tensor:
    """The result of a loss.

    Raises:
        InputError: It is not one floating-point number with a gradient.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(
            f"the loss must be one floating-point number, got {got}",
            where="loss",
            hint="return the mean over the batch",
        )
    if not loss.requires_grad:
        raise InputError(
            "the loss does not depend on any parameter that is trained",
            where="loss",
            hint="compute it from the model's outputs with torch's operators, without detach() and torch.no_grad(), and set "
            "requires_grad on parameters to train",
        )
    return loss.reshape(())


def _fitting(outputs: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Outputs and labels of one shape; a last dimension of one column may be missing in one of them."""
    if not isinstance(outputs, Tensor) or not isinstance(labels, Tensor):
        raise InputError(
            f"expected one tensor of outputs and one of labels, got {type(outputs).__name__} and {type(labels).__name__}",
            where="loss",
            hint=_HINT,
        )
    found = outputs
    if found.shape != labels.shape:
        if found.ndim == labels.ndim + 1 and found.shape[-1] == 1:
            found = found.squeeze(-1)
        elif labels.ndim == found.ndim + 1 and labels.shape[-1] == 1:
            labels = labels.squeeze(-1)
    if found.shape != labels.shape:
        raise InputError(
            f"the model gives outputs {list(outputs.shape)} for labels {list(labels.shape)}", where="labels", hint=_HINT
        )
    return found, labels.to(found.dtype)


def _require_shares(labels: Tensor) -> None:
    if not bool(((labels >= 0) & (labels <= 1)).all()):
        raise InputError(
            f"labels of a cross-entropy are from 0 to 1, got {float(labels.min()):g} to {float(labels.max()):g}"
            if bool(labels.isfinite().all())
            else "the labels have NaN or infinities",
            where="labels",
            hint="convert them to 0 and 1, or pass loss='mse' for other numbers",
        )
