"""The interface of peers: ways to run a model, which are compared with eager."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch

from benchmarks.job import Inputs, Job

Run = Callable[..., object]
Precision = Literal["fp32", "bf16", "int8"]

#: Largest error that counts as right, relative to the largest output. Re-associated fp32; 8 bits of mantissa through a dozen
#: layers; 8 bits in all, where the largest of many errors is compared. An answer to another question is off by 1 or more.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 5e-2, "int8": 0.25}


class Peer(ABC):
    """One contender.

    Attributes:
        name: Its name on the command line and in tables.
        summary: One line of description.
        packages: Distributions whose versions matter to it.
        modules: What must be importable.
        install: How to get missing modules.
        precision: The lowest precision it computes in; decides which answers count as right.
        ours: Whether it is recfx itself, which is compared with the best of the others.
        copies: How many copies of the model's state it makes at most while it prepares.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    modules: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "make bench-peers"
    precision: ClassVar[Precision] = "fp32"
    ours: ClassVar[bool] = False
    copies: ClassVar[float] = 0.0

    @property
    def tolerance(self) -> float:
        """Largest error that counts as right, relative to the largest output."""
        return TOLERANCES[self.precision]

    def available(self) -> str | None:
        """Why it cannot be used here, or None when it can."""
        missing = [module for module in self.modules if importlib.util.find_spec(module) is None]
        return f"{', '.join(missing)} not installed: {self.install}" if missing else None

    def declines(self, job: Job) -> str | None:
        """Why it cannot run a model, or None."""
        return None

    @abstractmethod
    def prepare(self, job: Job) -> Run:
        """Makes the model ready. All work that is done once is done here, compilation at the first call included.

        Returns:
            A function of what `convert` makes of the inputs, that gives the model's outputs. It is timed as it is.
        """

    def convert(self, job: Job, inputs: Inputs) -> tuple[object, ...]:
        """The arguments of `prepare`'s function. The conversion is not timed: it is for values that callers have in that form."""
        return inputs

    def release(self) -> None:  # noqa: B027 - most peers hold nothing
        """Called after a measurement, when nothing prepared is used any more."""


def warmed(call: Run, job: Job) -> Run:
    """A call under inference mode, made once with the job's inputs, so that compilation at the first call is done."""

    def run(*values: object) -> object:
        with torch.inference_mode():
            return call(*values)

    run(*job.inputs)
    return run
