"""The state of a training run between steps, and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from typing import Any, Protocol

import torch
from torch import Tensor

from recfx.errors import ArtifactError
from recfx.formats.records import decode, fields
from recfx.learn.checkpoint import load_checkpoint, save_checkpoint
from recfx.learn.fingerprint import require_same
from recfx.learn.train_settings import OPEN_ENDED, TrainReport, TrainSettings


@dataclass
class Position:
    """The position of a run in training.

    Attributes:
        epoch: Whole epochs done.
        batches: Batches done of the epoch that has begun.
        loss: Sum of the losses of these batches.
        waited: Evaluations since the best evaluation.
    """

    epoch: int = 0
    batches: int = 0
    loss: float = 0.0
    waited: int = 0


class Scales(Protocol):
    """What a run updates in addition to the parameters, such as GSTE's delta."""

    history: list[tuple[int, list[float]]]

    def state(self) -> dict[str, Any]:
        """The state for a resumed run, as plain JSON."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        ...


@dataclass
class TrainState:
    """A run: the model, its optimiser, generators, and counters.

    Attributes:
        model: The model.
        optimizer: The optimiser of its parameters.
        generator: The samplers' source of randomness.
        curvature: Updates GSTE's delta, or nothing.
        epoch_start: The state of `generator` when the epoch began, from which its samples are drawn again on resuming.
        experiment: The fingerprint of the objects of the run.
        sampler: Draws the samples.
        describe: Gives the fingerprint of a batch of samples.
        first_sample: The fingerprint of the first batch of the epoch that began last; None before.
        first_from: The state of `generator` from which that batch was drawn.
        best: The best model's state, None before the first evaluation.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    curvature: Scales
    epoch_start: Tensor
    experiment: dict[str, str]
    sampler: Callable[[torch.Generator], Iterable[Any]]
    describe: Callable[[Any], dict[str, str]]
    first_sample: dict[str, str] | None = None
    first_from: Tensor | None = None
    position: Position = field(default_factory=Position)
    report: TrainReport = field(default_factory=TrainReport)
    best: dict[str, Tensor] | None = None

    def save(self, folder: str | PathLike[str], settings: TrainSettings) -> None:
        """Writes a checkpoint."""
        held = self.model.state_dict().items()
        state = {f"model.{name}": tensor for name, tensor in held if tensor.layout is torch.strided}
        optimizer = self.optimizer.state_dict()
        slots: dict[str, dict[str, Any]] = {}
        for index, slot in optimizer["state"].items():
            slots[str(index)] = {name: value for name, value in slot.items() if not isinstance(value, Tensor)}
            state |= {f"optimizer.{index}.{name}": v for name, v in slot.items() if isinstance(v, Tensor)}
        # Between two epochs, the next epoch begins at the current state of the generator.
        state["generator.epoch_start"] = self.epoch_start if self.position.batches else self.generator.get_state()
        state["generator.cpu"] = torch.get_rng_state()
        if self.first_from is not None:
            state["generator.first_sample"] = self.first_from
        device = _device(self.model)
        if device.type == "cuda":
            state["generator.cuda"] = torch.cuda.get_rng_state(device)
        parts = {"state": state} | ({} if self.best is None else {"best": self.best})
        values = {
            "settings": _fixed(settings),
            "experiment": self.experiment,
            "first_sample": self.first_sample,
            "slots": slots,
            "groups": optimizer["param_groups"],
            "position": asdict(self.position),
            "report": asdict(replace(self.report, deltas=[])),  # the curvature's history holds the deltas
            "curvature": self.curvature.state(),
        }
        save_checkpoint(folder, self.report.steps, parts, values)

    def load(self, folder: str | PathLike[str], settings: TrainSettings) -> None:
        """Restores a checkpoint.

        Raises:
            ArtifactError: It is damaged, or of another experiment: other settings, model, quantisers, loss, samples, updates of delta or
                distillation.
        """
        parts, held = load_checkpoint(folder)
        if not isinstance(held, dict) or "experiment" not in held:
            raise ArtifactError(
                "the checkpoint does not name the settings of its training: an earlier version of recfx wrote it",
                where=str(folder),
                hint="train into another folder",
            )
        values = _checked(held, str(folder))
        state = parts.get("state", {})
        self.first_sample, self.first_from = values["first_sample"], state.get("generator.first_sample")
        before = {**_named(values["settings"]), **values["experiment"], **(self.first_sample or {})}
        now = {**_named(_fixed(settings)), **self.experiment, **(self._drawn_again() or {})}
        require_same(before, now, str(folder))
        try:
            constant = {n: t for n, t in self.model.state_dict().items() if t.layout is not torch.strided}
            self.model.load_state_dict({**constant, **_under(state, "model.")})
            self._load_optimizer(state, values)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ArtifactError(f"the checkpoint is of another model: {error}", where=str(folder)) from error
        missing = {"generator.epoch_start", "generator.cpu"} - state.keys()
        if missing:
            raise ArtifactError(f"the checkpoint lacks {', '.join(sorted(missing))}", where=str(folder))
        self.epoch_start = state["generator.epoch_start"]
        torch.set_rng_state(state["generator.cpu"])
        device = _device(self.model)
        if device.type == "cuda" and "generator.cuda" in state:
            torch.cuda.set_rng_state(state["generator.cuda"], device)
        self.generator.set_state(self.epoch_start)
        self.position = values["position"]
        self.curvature.load_state(values["curvature"])
        self.report = replace(values["report"], deltas=list(self.curvature.history))
        self.best = parts.get("best")

    def begin_epoch(self, sample: Any) -> None:
        """Records the first batch of an epoch that begins."""
        self.first_sample, self.first_from = self.describe(sample), self.epoch_start

    def _drawn_again(self) -> dict[str, str] | None:
        """The fingerprint of the first batch that this run's sampler draws from the generator's state at the beginning of
        the checkpoint's last epoch."""
        if self.first_from is None:
            return None
        generator = torch.Generator()
        generator.set_state(self.first_from)
        with torch.random.fork_rng([]):
            sample = next(iter(self.sampler(generator)), None)
        return None if sample is None else self.describe(sample)

    def _load_optimizer(self, state: dict[str, Tensor], values: dict[str, Any]) -> None:
        slots: dict[int, dict[str, Any]] = {}
        for index, plain in values["slots"].items():
            slots[int(index)] = {**plain, **_under(state, f"optimizer.{index}.")}
        self.optimizer.load_state_dict({"state": slots, "param_groups": values["groups"]})


def _fixed(settings: TrainSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in OPEN_ENDED}


def _named(settings: dict[str, Any]) -> dict[str, str]:
    return {f"settings.{name}": repr(value) for name, value in settings.items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _device(model: torch.nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


#: The contents of a checkpoint other than tensors.
_VALUES: dict[str, Any] = {
    "settings": dict[str, Any],
    "experiment": dict[str, str],
    "first_sample": dict[str, str] | None,
    "slots": dict[str, dict[str, Any]],
    "groups": list[dict[str, Any]],
    "position": Position,
    "report": TrainReport,
    "curvature": dict[str, Any],
}


def _checked(held: Any, where: str) -> dict[str, Any]:
    """Decodes the values of a checkpoint to the types in `_VALUES`."""
    found = fields(held, where, tuple(_VALUES))
    return {name: decode(kind, found[name], f"{where}, {name}") for name, kind in _VALUES.items()}
