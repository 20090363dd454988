"""Training and judging models that predict clicks, on `CtrData` as on `ClickData`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recfx.data.batches import Batches
from recfx.data.fitting import TrainLog, fit
from recfx.data.metrics import auc, log_loss, normalized_entropy
from recfx.errors import InputError

# How to call a model on a split's inputs; gives one logit a row.
Forward = Callable[..., Tensor]


class LabelledSplit(Protocol):
    """Rows with inputs and a 0/1 label: `CtrSplit`, `ClickSplit`, or a user's own."""

    @property
    def label(self) -> Tensor:
        """float32 [N]."""
        ...

    def __len__(self) -> int: ...

    def inputs(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Model inputs of some rows (int64 [n])."""
        ...


class LabelledData(Protocol):
    """Splits to fit and to choose on."""

    @property
    def train(self) -> LabelledSplit:
        """The split to fit on."""
        ...

    @property
    def valid(self) -> LabelledSplit:
        """The split to choose on."""
        ...


@dataclass(frozen=True)
class ClickFigures:
    """How good predictions of clicks are.

    Attributes:
        auc: Area under the ROC curve.
        log_loss: Mean binary cross-entropy, nats.
        normalized_entropy: Log loss over the entropy of the click rate.
        rows: Rows measured.
    """

    auc: float
    log_loss: float
    normalized_entropy: float
    rows: int


def train_ctr(
    model: nn.Module,
    data: LabelledData,
    *,
    epochs: int = 2,
    batch_size: int = 1024,
    lr: float = 1e-3,
    seconds: float | None = None,
    patience: int | None = 1,
    seed: int = 0,
    progress: bool = True,
    forward: Forward | None = None,
) -> TrainLog:
    """Trains a model in place on binary cross-entropy; leaves it in eval mode, in the state of best
    validation AUC.

    Args:
        model: Gives one logit a row.
        data: Called as `model(dense, sparse)` on `CtrData`, `model(user, item, history)` on `ClickData`.
        epochs: Passes over the training split, at most.
        batch_size: Rows a step.
        lr: Adam's learning rate.
        seconds: Time budget; None: no limit.
        patience: Stop after so many epochs without a better validation AUC; None: never.
        seed: Seed of the batches and of the randomness inside the model.
        progress: Show a progress bar when on a terminal.
        forward: Called as `forward(model, *inputs)` instead of `model(*inputs)`, for models with other inputs
            or several outputs; gives the logits.

    Raises:
        InputError: The model does not give one logit a row.
        DataError: Nothing to train on, or the validation split has one class only.
        RecfxError: Training diverged.
    """
    train = data.train
    batches = Batches(len(train), lambda rows: (train.inputs(rows), train.label[rows]), batch_size, seed=seed)

    def loss_fn(module: nn.Module, batch: tuple[tuple[Tensor, ...], Tensor]) -> Tensor:
        inputs, label = batch
        logits = _logits(module, inputs, forward)
        return nn.functional.binary_cross_entropy_with_logits(logits, label)

    return fit(
        model,
        batches,
        loss_fn,
        epochs=epochs,
        lr=lr,
        seconds=seconds,
        validate=lambda module: auc(data.valid.label, predict(module, data.valid, forward=forward)),
        patience=patience,
        seed=seed,
        progress=progress,
    )


def predict(
    model: Callable[..., Any],
    split: LabelledSplit,
    *,
    batch_size: int = 4096,
    forward: Forward | None = None,
) -> Tensor:
    """The logits [N] of a split, in order, without gradients. A module is called in eval mode and put back.

    Args:
        model: A module, a compiled model, or any callable.
        split: The rows.
        batch_size: Rows a call.
        forward: As for `train_ctr`.

    Raises:
        InputError: The model does not give one logit a row.
    """
    # Module by module: a model may hold parts frozen in eval mode.
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            batches = Batches(len(split), split.inputs, batch_size, shuffle=False)
            return torch.cat([_logits(model, inputs, forward) for inputs in batches])
    finally:
        for module in training:
            module.training = True


def evaluate_ctr(
    model: Callable[..., Any],
    split: LabelledSplit,
    *,
    batch_size: int = 4096,
    forward: Forward | None = None,
) -> ClickFigures:
    """AUC, log loss and normalised entropy of a model on a split; arguments as for `predict`.

    Raises:
        InputError: The model does not give one logit a row.
        DataError: NaN outputs, or a split with one class only.
    """
    logits = predict(model, split, batch_size=batch_size, forward=forward)
    return ClickFigures(
        auc(split.label, logits),
        log_loss(split.label, logits, from_logits=True),
        normalized_entropy(split.label, logits, from_logits=True),
        len(split),
    )


def _logits(model: Callable[..., Any], inputs: tuple[Tensor, ...], forward: Forward | None) -> Tensor:
    output = forward(model, *inputs) if forward is not None else model(*inputs)
    rows = len(inputs[0])
    if not isinstance(output, Tensor) or output.numel() != rows:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"the model gives {got} for {rows} rows, expected one logit a row",
            where=type(model).__name__,
            hint="pass forward=lambda model, *inputs: ... that picks one output",
        )
    return output.reshape(-1)
