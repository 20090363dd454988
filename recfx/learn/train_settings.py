"""How a model is trained, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from recfx.errors import InputError
from recfx.formats.records import decode

Stop = Literal["epochs", "time", "patience"]

#: Settings that may differ between a run and the one that resumes it: those of its length, not of its results.
OPEN_ENDED = ("epochs", "patience", "seconds", "checkpoint_seconds", "progress")


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: At most so many calls of the sampler.
        lr: Adam's learning rate.
        cosine_epochs: Let the learning rates fall to zero over so many epochs, as half a cosine; None: they stay.
        bounds_lr: That of learned bounds; None: `lr`.
        l2: Penalty of l2 / 2 times the squared norms of the batch's rows, over the batch size; the negatives of a sample
            count as one together.
        evaluate_every: Epochs between evaluations; the last epoch is always evaluated.
        monitor: Which of the evaluation's figures decides, the greater the better; None: the first.
        patience: Stop after so many evaluations without a better one; None: never.
        seed: Of the samples, and of all that draws from torch's global generators.
        seconds: Time budget of one call; None: no limit.
        checkpoint_seconds: Time between two checkpoints.
        deterministic: On CPUs, let torch use deterministic algorithms alone.
        progress: Show a bar on terminals.
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
            )
        if self.cosine_epochs is not None and self.cosine_epochs < 1:
            raise InputError(f"cosine_epochs must be at least 1, got {self.cosine_epochs}", where="TrainSettings")
        rates = {"lr": self.lr, "bounds_lr": self.bounds_lr or self.lr, "l2": self.l2 + 1}
        for name, rate in rates.items():
            if not (math.isfinite(rate) and rate > 0) or self.l2 < 0:
                raise InputError(f"{name} is out of range: {getattr(self, name)}", where="TrainSettings")
        for name in ("seconds", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} must not be negative, got {value}", where="TrainSettings")


@dataclass
class TrainReport:
    """What happened in training.

    Attributes:
        losses: Mean loss of each whole epoch, the penalty and the teacher's term included.
        scores: (epochs done, figures) at each evaluation.
        best: Index into `scores` of the state the model was left in; None without evaluation.
        steps: Optimiser steps.
        seconds: Time spent, evaluations and earlier calls included.
        stopped: What ended training: all epochs, the time budget, or patience.
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
        """The figures of the state the model was left in."""
        return None if self.best is None else self.scores[self.best][1]

    @staticmethod
    def from_json(document: dict[str, Any]) -> TrainReport:
        """A report from its fields as plain JSON has them.

        Raises:
            ArtifactError: A field is missing, unknown or of another type.
        """
        report: TrainReport = decode(TrainReport, document, "report")
        return report
