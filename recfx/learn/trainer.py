"""Trains an encoder with quantised embeddings, end to end (HQ-GNN, arXiv 2309.01032)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.learn.curvature import Curvature
from recfx.learn.distillation import Distillation
from recfx.learn.fingerprint import fingerprint, of_sample
from recfx.learn.losses import BPR, RankingLoss, loss_of_rows
from recfx.learn.penalty import row_penalty
from recfx.learn.quantized_model import Batch, Distinct, QuantizedModel, Rows
from recfx.learn.sampling import Sample, Sampler
from recfx.learn.train_settings import TrainSettings
from recfx.learn.train_state import TrainState
from recfx.learn.training_loop import TrainingLoop

#: Evaluates a model in eval mode: returns one figure or several by name; greater is better.
Evaluate = Callable[[QuantizedModel], float | Mapping[str, float]]


class Trainer(TrainingLoop[QuantizedModel]):
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
        self._curvature = curvature or Curvature()
        super().__init__(model, sampler, settings or TrainSettings(), self._curvature, evaluate, folder)
        self._loss = loss or BPR()
        self._distillation = distillation

    @property
    def name(self) -> str:
        """See `TrainingLoop`."""
        return type(self.model.encoder).__name__

    def experiment(self) -> dict[str, str]:
        """See `TrainingLoop`."""
        return fingerprint(
            model=self.model,
            loss=self._loss,
            curvature=self._curvature.settings,
            distillation=self._distillation,
            evaluated=self._evaluate is not None,
        )

    def describe(self, sample: Sample) -> dict[str, str]:
        """See `TrainingLoop`."""
        return of_sample(sample)

    def begin_epoch(self, epoch: int) -> None:
        """See `TrainingLoop`."""
        for quantizer in self.model.quantizers():
            quantizer.estimator.start_epoch(epoch)

    def optimizer(self) -> torch.optim.Optimizer:
        """See `TrainingLoop`."""
        bounds = {id(p) for q in self.model.quantizers() for p in q.parameters()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in bounds]}]
        learned = [p for p in trained if id(p) in bounds]
        if learned:
            groups.append({"params": learned, "lr": self.settings.bounds_lr or self.settings.lr})
        if not trained:
            raise InputError(
                "the model has no parameters to train",
                where=self.name,
                hint="pass an encoder with parameters that require gradients",
            )
        return torch.optim.Adam(groups, lr=self.settings.lr, fused=True)

    def step(self, state: TrainState, sample: Sample) -> Tensor:
        """See `TrainingLoop`."""
        batch = Batch.of(*sample).to(self._device)
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
        self._curvature.watch(self.model, places, encoded, self._loss, (state.report.steps, epoch))
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
