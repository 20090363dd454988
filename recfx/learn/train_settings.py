"""The settings of a training run, and its report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from recfx.errors import InputError
from recfx.formats.records import decode

Stop = Literal["epochs", "time", "patience"]

#: Settings that may differ between a run and the run that resumes it: they change how long it runs, not its steps.
OPEN_ENDED = ("epochs", "patience", "seconds", "checkpoint_seconds", "progress")


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: The largest number of epochs, each of them one call of the sampler.
        lr: Adam's learning rate.
        cosine_epochs: Number of epochs over which the learning rates fall to zero as half a cosine; None: they are
            constant.
        bounds_lr: The learning rate of learned bounds; None: `lr`.
        l2: Factor of the penalty: l2 / 2 times the squared norms of the batch's rows, over the batch size. All
            negatives of a sample together count as one row.
        evaluate_every: Epochs between evaluations; the last epoch is always evaluated.
        monitor: The name of the figure by which evaluations are compared; greater is better. None: the first figure.
        patience: Number of evaluations without an improvement after which training stops; None: it does not stop.
        seed: The seed of the samples and of torch's global generators.
        seconds: Time limit of one call; None: no limit.
        checkpoint_seconds: Time between two checkpoints.
        deterministic: On CPUs, let torch use only deterministic algorithms.
        progress: Show a progress bar on terminals.
    """

    epochs: int = 100
    lr: float = 1e-3
    cosine_epochs: int | None = None
    bounds_lr: float | None = None
    l2: float = 1e-4
    evaluate_every: int = 10
    monitor: str | None = None
    patience: int | None = 5
    seed: int = 0
    seconds: float | None = None
    checkpoint_seconds: float = 60.0
    deterministic: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.evaluate_every < 1 or (self.patience is not None and self.patience < 1):
            raise InputError(
                f"epochs, evaluate_every and patience must be at least 1, got {self.epochs}, {self.evaluate_every} and "
                f"{self.patience}",
                where="TrainSettings",
                hint="pass 1 or more",
            )
        if self.cosine_epochs is not None and self.cosine_epochs < 1:
            raise InputError(
                f"cosine_epochs must be at least 1, got {self.cosine_epochs}",
                where="TrainSettings",
                hint="pass 1 or more",
            )
        rates = {"lr": self.lr, "bounds_lr": self.bounds_lr or self.lr, "l2": self.l2 + 1}
        for name, rate in rates.items():
            if not (math.isfinite(rate) and rate > 0) or self.l2 < 0:
                raise InputError(
                    f"{name} is out of range: {getattr(self, name)}",
                    where="TrainSettings",
                    hint="see the range in the docstring of TrainSettings",
                )
        for name in ("seconds", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(
                    f"{name} must not be negative, got {value}",
                    where="TrainSettings",
                    hint="pass 0 or a positive number",
                )


@dataclass
class TrainReport:
    """The report of a training run.

    Attributes:
        losses: Mean loss of each whole epoch, including the penalty and the teacher's term.
        scores: (epochs done, figures) at each evaluation.
        best: Index into `scores` of the final state of the model; None without evaluation.
        steps: Optimiser steps.
        seconds: Time spent, including evaluations and earlier calls.
        stopped: The reason for the end of training: all epochs, the time limit, or patience.
        deltas: (steps done, delta of each quantiser) at each update of GSTE's scale.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best: int | None = None
    steps: int = 0
    seconds: float = 0.0
    stopped: Stop = "epochs"
    deltas: list[tuple[int, list[float]]] = field(default_factory=list)

    @property
    def best_scores(self) -> dict[str, float] | None:
        """The figures of the final state of the model."""
        return None if self.best is None else self.scores[self.best][1]

    @staticmethod
    def from_json(document: dict[str, Any]) -> TrainReport:
        """Makes a report from its fields as plain JSON.

        Raises:
            ArtifactError: A field is missing, unknown or of another type.
        """
        report: TrainReport = decode(TrainReport, document, "report")
        return report
