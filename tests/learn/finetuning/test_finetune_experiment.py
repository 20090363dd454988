"""Only the run of `finetune` that wrote a checkpoint continues it: every setting that changes the result is compared."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_kit import QUICK
from torch import Tensor, nn
from torch.nn import functional

from recfx.capture import capture
from recfx.errors import ArtifactError
from recfx.learn import fake_quantize, finetune

DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 6, generator=DRAWN), torch.rand(24, generator=DRAWN).round()


def net(
    activation: type[nn.Module] = nn.ReLU, dropout: float = 0.1, *, frozen: bool = False, seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 4), activation(), nn.Dropout(dropout), nn.Linear(4, 1), nn.Flatten(0))
    model[0].bias.requires_grad_(not frozen)
    return model


def huber(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss of the user's."""
    return functional.smooth_l1_loss(outputs, labels)


def weighted(outputs: Tensor, labels: Tensor, weight: float) -> Tensor:
    """A loss of the user's with a setting."""
    return weight * functional.mse_loss(outputs, labels)


@dataclass
class Squared:
    """A loss of the user's as an object."""

    factor: float = 1.0

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.factor * functional.mse_loss(outputs, labels)


class Other(Squared):
    """Another class of the same settings."""


@dataclass
class Run:
    """The arguments of a run; functions make new models."""

    model: Callable[[], Any] = net
    loss: Any = "bce"
    labels: str = "click"
    teacher: Callable[[], Any] = lambda: None
    share: float = 0.5
    evaluated: bool = False

    def run(self, folder: Path | None) -> Any:
        judge = (lambda _: 1.0) if self.evaluated else None
        names = {"labels": self.labels, "teacher": self.teacher(), "teacher_share": self.share}
        batches = [{"input": x, self.labels: y} for x, y in zip(X.split(8), Y.split(8), strict=True)]
        return finetune(self.model(), batches, self.loss, evaluate=judge, folder=folder, settings=QUICK, **names)


def teacher(seed: int) -> Callable[[], nn.Module]:
    return lambda: net(seed=seed).eval()


def program(activation: type[nn.Module] = nn.ReLU) -> Any:
    return capture(net(activation).eval(), (X[:8],))


def rounded(**options: Any) -> Callable[[], Any]:
    return lambda: fake_quantize(program(), min_weights=1, min_outputs=1, **options)


TAUGHT = Run(teacher=teacher(1))
PARTIAL = Run(loss=functools.partial(weighted, weight=0.5))
PROGRAM = Run(model=program)
ROUNDED = Run(model=rounded())

#: Name -> the run that wrote the checkpoint, another run, and the difference that the refusal names.
OTHERS: dict[str, tuple[Run, Run, str]] = {
    "another loss": (Run(), Run(loss="mse"), "loss was"),
    "a loss of the user's": (Run(), Run(loss=huber), "loss was"),
    "a setting of a partial loss": (
        PARTIAL,
        Run(loss=functools.partial(weighted, weight=0.7)),
        "loss.2.weight was 0.5, now it is 0.7",
    ),
    "a setting of a loss": (Run(loss=Squared()), Run(loss=Squared(2.0)), "loss.factor was 1.0, now it is 2.0"),
    "another class of loss": (Run(loss=Squared()), Run(loss=Other()), "loss was"),
    "other labels": (Run(), Run(labels="like"), "labels was 'click', now it is 'like'"),
    "a teacher": (Run(), TAUGHT, "teacher was None"),
    "no teacher": (TAUGHT, Run(), "teacher.share was 0.5, now it is not there"),
    "another teacher": (TAUGHT, replace(TAUGHT, teacher=teacher(2)), "teacher.model.state.0.weight was"),
    "another share": (TAUGHT, replace(TAUGHT, share=0.75), "teacher.share was 0.5, now it is 0.75"),
    "an evaluation": (Run(), Run(evaluated=True), "evaluated was False, now it is True"),
    "a frozen parameter": (Run(), Run(model=lambda: net(frozen=True)), "model.0.bias was"),
    "an activation": (Run(), Run(model=lambda: net(nn.GELU)), "model.1 module was 'ReLU()'"),
    "dropout": (Run(), Run(model=lambda: net(dropout=0.3)), "model.2 module was 'Dropout(p=0.1, inplace=False)'"),
    "a layer of a program": (PROGRAM, Run(model=lambda: program(nn.GELU)), "model.operators was"),
    "an estimator": (ROUNDED, Run(model=rounded(estimator="lsq")), "estimator was"),
    "whether inputs are rounded": (ROUNDED, Run(model=rounded(inputs=False)), "model.inputs was True, now it is False"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_with_the_difference(name: str, tmp_path: Path) -> None:
    first, other, message = OTHERS[name]
    first.run(tmp_path)
    with pytest.raises(ArtifactError, match="another experiment") as refused:
        other.run(tmp_path)
    assert message in str(refused.value)


@pytest.mark.parametrize("run", [Run(), TAUGHT, PARTIAL, Run(loss=Squared()), Run(loss=huber), PROGRAM, ROUNDED])
def test_the_same_run_goes_on(run: Run, tmp_path: Path) -> None:
    """With new objects, as in a new process."""
    assert run.run(tmp_path).report.losses == run.run(tmp_path).report.losses


@pytest.mark.parametrize("kind", ["program", "compiled model", "module"])
def test_the_state_of_every_kind_of_teacher_is_compared(kind: str, tmp_path: Path) -> None:
    class Compiled:
        def __init__(self, held: Any) -> None:
            self.program = held

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.program(*args, **kwargs)

    def made(seed: int) -> Any:
        model = net(seed=seed).eval()
        if kind == "module":
            return model
        held = capture(model, (X[:8],))
        return held if kind == "program" else Compiled(held)

    Run(teacher=lambda: made(1)).run(tmp_path)
    Run(teacher=lambda: made(1)).run(tmp_path)
    with pytest.raises(ArtifactError, match=r"teacher\.model\.state\.\S*weight was"):
        Run(teacher=lambda: made(2)).run(tmp_path)


def test_addresses_of_objects_are_left_out(tmp_path: Path) -> None:
    addresses = itertools.count(0xF00)

    class Holds(nn.Linear):
        def extra_repr(self) -> str:
            return f"function=<function f at {hex(next(addresses))}>"

    run = Run(model=lambda: nn.Sequential(Holds(6, 1), nn.Flatten(0)))
    run.run(tmp_path)
    run.run(tmp_path)
    assert next(addresses) > 0xF01
