"""The training loop: any model, any batches, any loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from recfx.data._optimizers import TableAdam, sparse_gradients
from recfx.data.batches import Batches
from recfx.errors import DataError, RecfxError
from recfx.progress import training_bar

Batch = TypeVar("Batch")
Stop = Literal["epochs", "time", "patience"]


@dataclass
class TrainLog:
    """A record of a training run.

    Attributes:
        losses: Mean training loss of each epoch, including an unfinished last epoch.
        scores: Validation score after each epoch; empty without validation.
        best_epoch: Index into `scores` of the final state of the model; None without validation.
        steps: Number of optimiser steps.
        seconds: Wall-clock time in seconds, including validation.
        stopped: The reason for the end: "epochs" (all epochs done), "time" (time limit reached), or "patience" (no better
            score for `patience` epochs).
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    steps: int = 0
    seconds: float = 0.0
    stopped: Stop = "epochs"


def fit(
    model: nn.Module,
    batches: Batches[Batch],
    loss_fn: Callable[[nn.Module, Batch], Tensor],
    *,
    epochs: int = 1,
    lr: float = 1e-3,
    seconds: float | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TrainLog:
    """Trains a model in place with Adam and leaves it in eval mode, in the state with the best validation score.

    It does not change the global random state. Dropout and other random operations depend only on `seed`.

    Args:
        model: The model.
        batches: The training batches.
        loss_fn: A function from the model and a batch to the scalar loss.
        epochs: The largest number of passes over the data.
        lr: Adam's learning rate.
        seconds: Time limit in seconds. Training stops at the first step after it, but makes at least one step. None: no
            limit.
        validate: A function from the model to a score, where higher is better. It is called in eval mode and without
            gradients after each epoch, also after an unfinished one. None: the model keeps its last state.
        patience: The number of epochs without a better score after which training stops; None: it never stops early.
        seed: Seed of the randomness inside the model.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The record of the run.

    Raises:
        DataError: There are no batches, or `epochs` or `patience` is below 1.
        RecfxError: The loss or the validation score is NaN or infinite.
    """
    if len(batches) < 1 or epochs < 1 or (patience is not None and patience < 1):
        raise DataError(
            f"nothing to train: {len(batches)} batches, {epochs} epochs, patience {patience}",
            where="fit",
            hint="give at least one batch, one epoch and a patience of at least 1",
        )
    log = TrainLog()
    best: dict[str, Tensor] | None = None
    begin = time.perf_counter()
    limit = math.inf if seconds is None else max(seconds, 1e-9)
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    optimizer = TableAdam(model, lr)
    with torch.random.fork_rng(devices), sparse_gradients(model), training_bar(progress) as report:
        torch.manual_seed(seed)
        for epoch in range(epochs):
            model.train()
            total, done = 0.0, 0
            for batch in batches:
                total += _step(model, batch, loss_fn, optimizer, log)
                done += 1
                spent = time.perf_counter() - begin
                share = (epoch + done / len(batches)) / epochs
                report(max(share, spent / limit), _status(total / done, log))
                if spent >= limit:
                    log.stopped = "time"
                    break
            log.losses.append(total / done)
            if validate is not None:
                log.scores.append(_validated(model, validate))
                if log.best_epoch is None or log.scores[-1] > log.scores[log.best_epoch]:
                    log.best_epoch = epoch
                    best = {name: value.detach().clone() for name, value in model.state_dict().items()}
                elif patience is not None and epoch - log.best_epoch >= patience and log.stopped != "time":
                    log.stopped = "patience"
            if log.stopped != "epochs":
                break
    model.zero_grad(set_to_none=True)
    model.eval()
    if best is not None:
        model.load_state_dict(best)
    log.seconds = time.perf_counter() - begin
    return log


def _step(
    model: nn.Module,
    batch: Batch,
    loss_fn: Callable[[nn.Module, Batch], Tensor],
    optimizer: TableAdam,
    log: TrainLog,
) -> float:
    optimizer.zero_grad()
    loss = loss_fn(model, batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RecfxError(
            f"training diverged: the loss is {value} at step {log.steps + 1}",
            where=type(model).__name__,
            hint="lower the learning rate, or check the data for NaN and unscaled features",
        )
    loss.backward()
    optimizer.step()
    log.steps += 1
    return value


def _validated(model: nn.Module, validate: Callable[[nn.Module], float]) -> float:
    model.eval()
    with torch.no_grad():
        score = validate(model)
    if not math.isfinite(score):
        raise RecfxError(
            f"the validation score is {score}",
            where=type(model).__name__,
            hint="check the model's outputs for NaN",
        )
    return score


def _status(loss: float, log: TrainLog) -> str:
    score = f"  valid {log.scores[-1]:.4f}" if log.scores else ""
    return f"epoch {len(log.losses) + 1}  loss {loss:.4f}{score}"
