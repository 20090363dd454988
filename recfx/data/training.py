"""Training and evaluation of models that predict clicks, on `CtrData` and `ClickData`."""

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

# A function from a model and the inputs of a split to one logit for each row.
Forward = Callable[..., Tensor]


class LabelledSplit(Protocol):
    """The interface of rows with inputs and a 0/1 label: `CtrSplit`, `ClickSplit`, or a user's own class."""

    @property
    def label(self) -> Tensor:
        """float32 [N]."""
        ...

    def __len__(self) -> int: ...

    def inputs(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The model inputs of the given rows (int64 [n])."""
        ...


class LabelledData(Protocol):
    """The interface of data with splits for training and for model selection."""

    @property
    def train(self) -> LabelledSplit:
        """The split for training."""
        ...

    @property
    def valid(self) -> LabelledSplit:
        """The split for model selection."""
        ...


@dataclass(frozen=True)
class ClickFigures:
    """Metrics of click predictions.

    Attributes:
        auc: Area under the ROC curve.
        log_loss: Mean binary cross-entropy, in nats.
        normalized_entropy: Log loss divided by the entropy of the click rate.
        rows: Number of measured rows.
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
    """Trains a model in place on binary cross-entropy and leaves it in eval mode, in the state with the best validation AUC.

    Args:
        model: A model that returns one logit for each row, [n] or [n, 1].
        data: The data. The model is called as `model(dense, sparse)` on `CtrData`, and as `model(user, item, history)`
            on `ClickData`.
        epochs: The largest number of passes over the training split.
        batch_size: Rows in a batch.
        lr: Adam's learning rate.
        seconds: Time limit in seconds; None: no limit.
        patience: The number of epochs without a better validation AUC after which training stops; None: it never stops
            early.
        seed: Seed of the batches and of the randomness inside the model.
        progress: Whether to show a progress bar on a terminal.
        forward: A function that is called as `forward(model, *inputs)` instead of `model(*inputs)` and returns the logits,
            for models with other inputs or several outputs.

    Returns:
        The record of the run.

    Raises:
        InputError: The model does not return one logit for each row.
        DataError: There is nothing to train on, or the validation split has only one class.
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
    """The logits [N] of a split, in order, computed without gradients.

    A module is called in eval mode, and its training mode is restored afterwards.

    Args:
        model: A module, a compiled model, or any callable.
        split: The rows.
        batch_size: Rows in a call.
        forward: A function that is called as `forward(model, *inputs)` instead of `model(*inputs)`.

    Raises:
        InputError: The model does not return one logit for each row.
    """
    # The mode of each module is stored, since a model may contain parts that stay in eval mode.
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
    """The AUC, log loss and normalised entropy of a model on a split.

    Args:
        model: A module, a compiled model, or any callable.
        split: The rows.
        batch_size: Rows in a call.
        forward: A function that is called as `forward(model, *inputs)` instead of `model(*inputs)`.

    Raises:
        InputError: The model does not return one logit for each row.
        DataError: An output is NaN, or the split has only one class.
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
            f"expected one logit a row, the model gives {got} for {rows} rows",
            where=type(model).__name__,
            hint="pass forward=lambda model, *inputs: ... that picks one output",
        )
    return output.reshape(-1)
