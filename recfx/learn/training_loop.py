"""The loop of a training run: epochs of samples, checkpoints, evaluations, the clock and the progress bar. What a step does is up to
subclasses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sized
from os import PathLike
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from recfx.errors import InputError, RecfxError
from recfx.learn._clock import Clock, deterministic, set_rate
from recfx.learn.checkpoint import has_checkpoint
from recfx.learn.train_settings import TrainReport, TrainSettings
from recfx.learn.train_state import Scales, TrainState
from recfx.progress import Report, training_bar

M = TypeVar("M", bound=nn.Module)

#: Draws one epoch of samples from a generator.
Draw = Callable[[torch.Generator], Iterable[Any]]

_CHECKED_EVERY = 64  # steps between two checks of the loss on an accelerator, where a check waits for the device


class TrainingLoop(ABC, Generic[M]):
    """Trains a model in place.

    Args:
        model: The model, on the device of its parameters.
        sampler: Draws the samples of an epoch.
        settings: How to train.
        scales: What the run updates in addition to the parameters, and stores in checkpoints.
        evaluate: Evaluates the model in eval mode: one figure or several by name, greater is better; without it, training does not stop
            early and keeps the last state.
        folder: The folder of checkpoints. A run continues from a checkpoint in it, bit for bit on CPUs. None: no checkpoints.
    """

    def __init__(
        self,
        model: M,
        sampler: Draw,
        settings: TrainSettings,
        scales: Scales,
        evaluate: Callable[[M], float | Mapping[str, float]] | None,
        folder: str | PathLike[str] | None,
    ) -> None:
        self.model = model
        self.settings = settings
        self._sampler = sampler
        self._scales = scales
        self._evaluate = evaluate
        self._folder = folder
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._checked_every = 1 if self._device.type == "cpu" else _CHECKED_EVERY

    @property
    @abstractmethod
    def name(self) -> str:
        """What is trained, for errors."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the parameters.

        Raises:
            InputError: There is nothing to train.
        """

    @abstractmethod
    def experiment(self) -> dict[str, str]:
        """The fingerprint of the objects of the run; a checkpoint with another one is refused."""

    @abstractmethod
    def describe(self, sample: Any) -> dict[str, str]:
        """The fingerprint of a batch of samples."""

    @abstractmethod
    def step(self, state: TrainState, sample: Any) -> Tensor:
        """Takes one step of the optimiser; returns the detached loss."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch, counted from 0."""

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
            state.report.deltas = list(self._scales.history)
            self._save(state)
        self.model.zero_grad(set_to_none=True)
        self.model.eval()
        if state.best is not None:
            self.model.load_state_dict(state.best)
        return state.report

    def _begin(self) -> TrainState:
        generator = torch.Generator().manual_seed(self.settings.seed)
        state = TrainState(
            self.model,
            self.optimizer(),
            generator,
            self._scales,
            generator.get_state(),
            self.experiment(),
            self._sampler,
            self.describe,
        )
        if self._folder is not None and has_checkpoint(self._folder):
            state.load(self._folder, self.settings)
        return state

    def _epoch(self, state: TrainState, clock: Clock, show: Report) -> bool:
        """Continues an epoch to its end or to the time limit; returns whether the epoch ended."""
        position = state.position
        self.model.train()
        if position.batches == 0:
            state.epoch_start = state.generator.get_state()
            self.begin_epoch(position.epoch)
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
            set_rate(state.optimizer, self.settings, position.epoch + (index / length if length else 0.0))
            total += self.step(state, sample)
            position.batches += 1
            if position.batches % self._checked_every == 0:
                position.loss = self._finite(total, state)
            share = position.batches / length if length else 0.0
            show(max((position.epoch + share) / self.settings.epochs, clock.share()), _status(state))
            if clock.out():
                position.loss = self._finite(total, state)
                return False
            if self._folder is not None and clock.checkpoint_due():
                position.loss = self._finite(total, state)
                state.report.seconds = clock.spent()
                self._save(state)
        if index + 1 < max(done_before, 1):
            raise InputError(
                f"the sampler gave {index + 1} batches, expected at least {max(done_before, 1)}",
                where="sampler",
                hint="resume a run with the sampler and the data of its first call",
            )
        self._end_epoch(state, self._finite(total, state))
        return True

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

    def _judge(self, evaluate: Callable[[M], float | Mapping[str, float]]) -> dict[str, float]:
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

    def _finite(self, total: Tensor, state: TrainState) -> float:
        value = float(total)
        if not math.isfinite(value):
            raise RecfxError(
                f"training diverged: the loss is {value} at step {state.report.steps}",
                where=self.name,
                hint=self.divergence(),
            )
        return value

    def divergence(self) -> str:
        """What to do about a loss that is not finite."""
        return "lower the learning rate, or look for NaN in the model's parameters"


def _status(state: TrainState) -> str:
    position, report = state.position, state.report
    loss = f"  loss {position.loss / position.batches:.4f}" if position.batches and position.loss else ""
    score = "".join(f"  {name} {value:.4f}" for name, value in report.scores[-1][1].items()) if report.scores else ""
    return f"epoch {position.epoch + 1}{loss}{score}"
