"""Trains an encoder with quantised embeddings, end to end (HQ-GNN, arXiv 2309.01032)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sized
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError, RecfxError
from recfx.learn._clock import Clock, deterministic, set_rate
from recfx.learn.checkpoint import has_checkpoint
from recfx.learn.curvature import Curvature
from recfx.learn.distillation import Distillation
from recfx.learn.fingerprint import fingerprint
from recfx.learn.losses import BPR, RankingLoss, loss_of_rows
from recfx.learn.penalty import row_penalty
from recfx.learn.quantized_model import Batch, Distinct, QuantizedModel, Rows
from recfx.learn.sampling import Sampler
from recfx.learn.train_settings import TrainReport, TrainSettings
from recfx.learn.train_state import TrainState
from recfx.progress import Report, training_bar

#: Evaluates a model in eval mode: returns one figure or several by name; greater is better.
Evaluate = Callable[[QuantizedModel], float | Mapping[str, float]]

_CHECKED_EVERY = 64  # steps between two checks of the loss on an accelerator, where a check waits for the device


class Trainer:
    """Trains a model in place with Adam on a ranking loss and an L2 penalty.

    To start from a full-precision teacher, train it first (a `QuantizedModel` without quantisers), load its weights
    into the student's encoder and, optionally, pass its ranking as `distillation`.

    Args:
        model: The model, on the device of its parameters.
        sampler: Draws the samples of an epoch; see `recfx.learn.sampling`.
        settings: How to train.
        loss: The ranking loss.
        evaluate: Evaluates the model; without it, training does not stop early and keeps the last state.
        curvature: Updates GSTE's delta; None: `Curvature()`.
        distillation: A teacher's ranking to learn as well.
        folder: The folder of checkpoints. A run continues from a checkpoint in it, bit for bit on CPUs. None: no
            checkpoints.
    """

    def __init__(
        self,
        model: QuantizedModel,
        sampler: Sampler,
        settings: TrainSettings | None = None,
        *,
        loss: RankingLoss | None = None,
        evaluate: Evaluate | None = None,
        curvature: Curvature | None = None,
        distillation: Distillation | None = None,
        folder: str | PathLike[str] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings or TrainSettings()
        self._sampler = sampler
        self._loss = loss or BPR()
        self._evaluate = evaluate
        self._curvature = curvature or Curvature()
        self._distillation = distillation
        self._folder = folder
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._checked_every = 1 if self._device.type == "cpu" else _CHECKED_EVERY

    def run(self) -> TrainReport:
        """Trains; leaves the model in eval mode, in its best evaluated state.

        Returns:
            The report, including earlier calls that this call continues.

        Raises:
            InputError: The sampler has no batches, or its batches do not fit.
            RecfxError: The loss or an evaluation became NaN or infinite.
            ArtifactError: The checkpoint is damaged, or of another model or other settings.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            deterministic(self.settings.deterministic and self._device.type == "cpu"),
            training_bar(self.settings.progress) as show,
        ):
            torch.manual_seed(self.settings.seed)
            state = self._begin()
            clock = Clock(self.settings, state.report.seconds)
            state.report.stopped = "epochs"
            while state.position.epoch < self.settings.epochs and not self._out_of_patience(state):
                if not self._epoch(state, clock, show):
                    state.report.stopped = "time"
                    break
            if self._out_of_patience(state):
                state.report.stopped = "patience"
            state.report.seconds = clock.spent()
            state.report.deltas = list(self._curvature.history)
            self._save(state)
        self.model.zero_grad(set_to_none=True)
        self.model.eval()
        if state.best is not None:
            self.model.load_state_dict(state.best)
        return state.report

    def _begin(self) -> TrainState:
        generator = torch.Generator().manual_seed(self.settings.seed)
        experiment = fingerprint(
            model=self.model,
            loss=self._loss,
            curvature=self._curvature.settings,
            distillation=self._distillation,
            evaluated=self._evaluate is not None,
        )
        state = TrainState(
            self.model, self._optimizer(), generator, self._curvature, generator.get_state(), experiment, self._sampler
        )
        if self._folder is not None and has_checkpoint(self._folder):
            state.load(self._folder, self.settings)
        return state

    def _optimizer(self) -> torch.optim.Optimizer:
        bounds = {id(p) for q in self.model.quantizers() for p in q.parameters()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in bounds]}]
        learned = [p for p in trained if id(p) in bounds]
        if learned:
            groups.append({"params": learned, "lr": self.settings.bounds_lr or self.settings.lr})
        if not trained:
            raise InputError(
                "the model has no parameters to train",
                where=type(self.model.encoder).__name__,
                hint="pass an encoder with parameters that require gradients",
            )
        return torch.optim.Adam(groups, lr=self.settings.lr, fused=True)

    def _epoch(self, state: TrainState, clock: Clock, show: Report) -> bool:
        """Continues an epoch to its end or to the time limit; returns whether the epoch ended."""
        position = state.position
        self.model.train()
        if position.batches == 0:
            state.epoch_start = state.generator.get_state()
            for quantizer in self.model.quantizers():
                quantizer.estimator.start_epoch(position.epoch)
        done_before = position.batches
        total = torch.tensor(position.loss, dtype=torch.float64, device=self._device)
        samples = self._sampler(state.generator)
        length = len(samples) if isinstance(samples, Sized) else None
        index = -1
        for index, sample in enumerate(samples):
            if index == 0 and not done_before:
                state.begin_epoch(sample)
            if index < done_before:
                continue  # drawn again only to restore the state of the generator
            batch = Batch.of(*sample).to(self._device)
            set_rate(state.optimizer, self.settings, position.epoch + (index / length if length else 0.0))
            total += self._step(state, batch)
            position.batches += 1
            if position.batches % self._checked_every == 0:
                position.loss = _finite(total, state, self.model)
            share = position.batches / length if length else 0.0
            show(max((position.epoch + share) / self.settings.epochs, clock.share()), _status(state))
            if clock.out():
                position.loss = _finite(total, state, self.model)
                return False
            if self._folder is not None and clock.checkpoint_due():
                position.loss = _finite(total, state, self.model)
                state.report.seconds = clock.spent()
                self._save(state)
        if index + 1 < max(done_before, 1):
            raise InputError(
                f"the sampler gave {index + 1} batches, expected at least {max(done_before, 1)}",
                where="sampler",
                hint="resume a run with the sampler and the data of its first call",
            )
        self._end_epoch(state, _finite(total, state, self.model))
        return True

    def _step(self, state: TrainState, batch: Batch) -> Tensor:
        """Takes one step; returns the detached loss."""
        taught = None if self._distillation is None else self._distillation.items(batch.users)
        distinct = batch.distinct(None if taught is None else taught[0])
        encoded = self.model.rows(distinct.users, distinct.items)
        rounded = self.model.quantize(encoded)
        places = distinct.places
        loss = loss_of_rows(self._loss, rounded.users, rounded.items, places)
        if taught is not None and distinct.further is not None and self._distillation is not None:
            loss = loss + self._distillation.term(self._loss, rounded, places, distinct.further, taught[1])
        if self.settings.l2:
            loss = loss + self.settings.l2 * self._penalty(distinct, encoded)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        epoch = state.position.epoch if state.position.batches == 0 else -1
        state.curvature.watch(self.model, places, encoded, self._loss, (state.report.steps, epoch))
        state.optimizer.step()
        state.report.steps += 1
        return loss.detach()

    def _penalty(self, distinct: Distinct, encoded: Rows) -> Tensor:
        """Half the squared norms of the batch's rows, times their numbers of uses, over the batch size. All negatives
        of a sample together count as one row, so that their number does not change the weight of the penalty.
        """
        base = self.model.base_rows(distinct.users, distinct.items) or encoded
        users, positives, negatives = distinct.places
        taken = torch.bincount(positives, minlength=len(base.items))
        drawn = torch.bincount(negatives.flatten(), minlength=len(base.items)) / negatives.shape[1]
        of_users = row_penalty(base.users, torch.bincount(users, minlength=len(base.users)))
        return (of_users + row_penalty(base.items, taken + drawn)) / len(users)

    def _end_epoch(self, state: TrainState, total: float) -> None:
        position, report = state.position, state.report
        report.losses.append(total / position.batches)
        position.epoch, position.batches, position.loss = position.epoch + 1, 0, 0.0
        last = position.epoch == self.settings.epochs
        if self._evaluate is None or (position.epoch % self.settings.evaluate_every and not last):
            return
        figures = self._judge(self._evaluate)
        report.scores.append((position.epoch, figures))
        name = self.settings.monitor or next(iter(figures))
        if report.best is None or figures[name] > report.scores[report.best][1][name]:
            report.best = len(report.scores) - 1
            state.best = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
            position.waited = 0
        else:
            position.waited += 1

    def _judge(self, evaluate: Evaluate) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            found = evaluate(self.model)
        figures = {name: float(value) for name, value in found.items()} if isinstance(found, Mapping) else None
        figures = {"score": float(found)} if figures is None else figures  # type: ignore[arg-type]
        wanted = self.settings.monitor
        if not figures or (wanted is not None and wanted not in figures):
            raise InputError(
                f"the evaluation gave {sorted(figures)}, not {wanted!r}",
                where="evaluate",
                hint="return a dict with that figure from evaluate",
            )
        if not all(math.isfinite(value) for value in figures.values()):
            raise RecfxError(f"the evaluation gave {figures}", where="evaluate", hint="look for NaN in the embeddings")
        return figures

    def _out_of_patience(self, state: TrainState) -> bool:
        return self.settings.patience is not None and state.position.waited >= self.settings.patience

    def _save(self, state: TrainState) -> None:
        if self._folder is not None:
            state.save(self._folder, self.settings)


def _finite(total: Tensor, state: TrainState, model: QuantizedModel) -> float:
    value = float(total)
    if not math.isfinite(value):
        raise RecfxError(
            f"training diverged: the loss is {value} at step {state.report.steps}",
            where=type(model.encoder).__name__,
            hint="lower the learning rate, or look for NaN in the model's parameters",
        )
    return value


def _status(state: TrainState) -> str:
    position, report = state.position, state.report
    loss = f"  loss {position.loss / position.batches:.4f}" if position.batches and position.loss else ""
    score = "".join(f"  {name} {value:.4f}" for name, value in report.scores[-1][1].items()) if report.scores else ""
    return f"epoch {position.epoch + 1}{loss}{score}"
