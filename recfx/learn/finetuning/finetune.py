"""`finetune`: trains a program after passes that change its function, through all its operators."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from recfx.errors import InputError, RecfxError
from recfx.ir.program import Program
from recfx.ir.program_module import ProgramModule
from recfx.learn.finetuning.experiment import experiment
from recfx.learn.finetuning.fake_quantize import FakeQuantized
from recfx.learn.finetuning.loader import Labelled, Loader, labelled
from recfx.learn.finetuning.task_loss import TaskLoss, are_probabilities, logits_bce, scalar, task_loss
from recfx.learn.finetuning.teacher import Teacher, teacher_of
from recfx.learn.finetuning.trainable import trainable
from recfx.learn.fingerprint import of_tensors
from recfx.learn.train_settings import TrainReport, TrainSettings
from recfx.learn.train_state import Position, TrainState
from recfx.learn.training_loop import TrainingLoop

#: Evaluates a model in eval mode: one figure or several by name, greater is better.
Evaluate = Callable[[nn.Module], float | Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """The result of `finetune`.

    Attributes:
        module: The trained model, in eval mode; `recfx.optimize` takes it.
        report: Losses, scores and time.
    """

    module: nn.Module
    report: TrainReport

    @property
    def program(self) -> Program:
        """The trained program.

        Raises:
            InputError: A plain module was trained.
        """
        if isinstance(self.module, ProgramModule):
            program: Program = self.module.program
            return program
        raise InputError(
            f"{type(self.module).__name__} is a plain module, which has no program", hint="capture or optimize .module"
        )


def finetune(
    model: Program | nn.Module,
    loader: Iterable[Any],
    loss: str | TaskLoss = "bce",
    *,
    epochs: int = 1,
    lr: float = 1e-3,
    seed: int = 0,
    labels: str | None = None,
    teacher: Program | nn.Module | None = None,
    teacher_share: float = 1.0,
    evaluate: Evaluate | None = None,
    folder: str | PathLike[str] | None = None,
    settings: TrainSettings | None = None,
) -> FineTuned:
    """Trains a program, or a module, with Adam.

    Args:
        model: A program, a compiled model, whose program is trained, or `program.as_module()`. Programs and compiled models stay as they
            are; a module is trained in place.
        loader: Batches of inputs and labels: `(*inputs, labels)`, `(inputs, labels)` with a tuple or dict of inputs, or a dict.
        loss: "bce" for logits, "bce-probabilities", "mse", or a function of the outputs and the labels that returns a scalar.
        epochs: Passes over the loader.
        lr: Adam's learning rate.
        seed: The seed of the order of the batches and of torch's global generators.
        labels: The key of the labels in batches that are dicts.
        teacher: A better model whose answers are learned, usually the model before it was pruned.
        teacher_share: The weight of the teacher's answers in the loss, above 0 and at most 1; the labels have the rest.
        evaluate: Evaluates the model after each epoch; the model is left in its best state.
        folder: The folder of checkpoints. A stopped run continues from it, on CPUs bit for bit; an interrupted one keeps the last
            checkpoint.
        settings: All settings, instead of `epochs`, `lr` and `seed`. `l2` is the weight decay.

    Returns:
        The trained module and the report.

    Raises:
        InputError: The model has nothing to train or is quantised, or the batches, labels or loss do not fit.
        RecfxError: The loss or an evaluation became NaN or infinite.
        ArtifactError: The checkpoint is damaged, or of another run.
    """
    module = module_of(model)
    if settings is None:
        settings = TrainSettings(epochs=epochs, lr=lr, seed=seed, l2=0.0, evaluate_every=1, patience=None)
    own = task_loss(loss)
    loop = FineTuning(
        module, Loader(loader), settings, own, labels, teacher_of(teacher, loss, teacher_share), evaluate, folder
    )
    report = loop.run()
    loop.warn_of_unreached()
    return FineTuned(module, report)


def module_of(model: Any) -> nn.Module:
    """The module to train: a copy of a program, or the given module.

    Raises:
        InputError: It is neither a program nor a module, or is quantised.
    """
    held = getattr(model, "program", None)
    if isinstance(model, Program):
        return trainable(model).as_module()
    if isinstance(model, ProgramModule):
        trainable(model.program)
        return model
    if isinstance(held, Program):
        return trainable(held).as_module()
    if isinstance(model, nn.Module):
        return model
    raise InputError(
        f"expected a program or a module, got {type(model).__name__}",
        where="finetune",
        hint="pass a recfx.Program, as recfx.capture.capture and Pipeline.run give it",
    )


class Deltas:
    """The scales of GSTE in a program that is rounded while it is trained; without one, a run updates only parameters.

    Attributes:
        history: (steps done, delta of each weight) at each update.
    """

    def __init__(self) -> None:
        self.history: list[tuple[int, list[float]]] = []

    def watch(self, module: nn.Module, loss: Callable[[], Tensor], position: Position, step: int) -> None:
        """Updates the scales at the beginning of each epoch after the first."""
        if isinstance(module, FakeQuantized) and position.epoch and not position.batches:
            found = module.update_deltas(loss)
            if found:
                self.history.append((step, found))

    def state(self) -> dict[str, Any]:
        """See `Scales`."""
        return {"history": self.history}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Scales`."""
        self.history = [(int(step), list(values)) for step, values in state["history"]]


class FineTuning(TrainingLoop[nn.Module]):
    """The run behind `finetune`.

    Args:
        module: The model.
        loader: Its batches.
        settings: How to train.
        loss: The loss.
        labels: The key of the labels in batches that are dicts.
        teacher: A teacher's term of the loss.
        evaluate: Evaluates the model.
        folder: The folder of checkpoints.
    """

    def __init__(
        self,
        module: nn.Module,
        loader: Loader,
        settings: TrainSettings,
        loss: TaskLoss,
        labels: str | None,
        teacher: Teacher | None,
        evaluate: Evaluate | None,
        folder: str | PathLike[str] | None,
    ) -> None:
        self._deltas = Deltas()
        super().__init__(module, loader, settings, self._deltas, evaluate, folder)
        self._loss = loss
        self._labels = labels
        self._teacher = teacher
        self._unreached: list[str] | None = None

    @property
    def name(self) -> str:
        """See `TrainingLoop`."""
        return type(self.model).__name__

    def optimizer(self) -> torch.optim.Optimizer:
        """See `TrainingLoop`."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if not trained:
            raise InputError(
                "the model has no parameters that require gradients",
                where=self.name,
                hint="set requires_grad_() on the parameters to train",
            )
        return torch.optim.Adam(trained, lr=self.settings.lr, weight_decay=self.settings.l2, fused=True)

    def experiment(self) -> dict[str, str]:
        """See `TrainingLoop`."""
        evaluated = self._evaluate is not None
        return experiment(self.model, self._loss, self._labels, self._teacher, evaluated=evaluated)

    def describe(self, sample: Any) -> dict[str, str]:
        """See `TrainingLoop`."""
        return of_tensors(pytree.tree_leaves(sample))

    def step(self, state: TrainState, sample: Any) -> Tensor:
        """See `TrainingLoop`."""
        batch = labelled(sample, self.model, self._labels)
        batch = pytree.tree_map_only(Tensor, lambda held: held.to(self._device), batch)
        self._deltas.watch(self.model, lambda: self._loss_of(batch), state.position, state.report.steps)
        loss = self._loss_of(batch)
        if self._checked_every == 1 and not bool(loss.isfinite()):
            self._diverged(state, float(loss.detach()), batch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._unreached is None:
            self._unreached = [n for n, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        state.optimizer.step()
        state.report.steps += 1
        return loss.detach()

    def _loss_of(self, batch: Labelled) -> Tensor:
        outputs = self.model(*batch.args, **batch.kwargs)
        if self._unreached is None and self._loss is logits_bce and are_probabilities(outputs):
            warnings.warn(
                "all outputs of the first batch are from 0 to 1, like probabilities, and loss='bce' expects logits: pass "
                "loss='bce-probabilities' for a model that ends in a sigmoid",
                stacklevel=2,
            )
        if self._teacher is None:
            return scalar(self._loss(outputs, batch.labels))
        taught, share = scalar(self._teacher.term(outputs, batch)), self._teacher.share
        return taught if share == 1 else share * taught + (1 - share) * scalar(self._loss(outputs, batch.labels))

    def _diverged(self, state: TrainState, value: float, batch: Labelled) -> None:
        """Raises an error that names what is not finite."""
        odd = [name for name, held in self.model.named_parameters() if not bool(held.isfinite().all())]
        given = [held for held in pytree.tree_leaves(batch) if isinstance(held, Tensor) and held.is_floating_point()]
        if odd:
            hint = f"lower the learning rate; these parameters have NaN or infinities: {', '.join(odd[:3])}"
        elif not all(bool(held.isfinite().all()) for held in given):
            hint = "the batch has NaN or infinities: leave out such rows, or fill in the missing numbers"
        else:
            hint = "batch and parameters are finite: lower the learning rate, or look at the loss"
        raise RecfxError(f"the loss is {value} at step {state.report.steps}", where=self.name, hint=hint)

    def warn_of_unreached(self) -> None:
        """Warns of parameters that got no gradient in the first step."""
        if self._unreached:
            shown = ", ".join(self._unreached[:3]) + (" …" if len(self._unreached) > 3 else "")
            warnings.warn(
                f"{len(self._unreached)} parameter(s) got no gradient and stay as they are: {shown}", stacklevel=3
            )
