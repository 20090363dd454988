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

#: Precision -> largest error of a right answer, relative to the largest output. They allow for reordered sums in fp32,
#: for 8 bits of mantissa in a dozen layers, and for the largest of many errors of 8-bit numbers. The error of unrelated
#: outputs is 1 or more.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 5e-2, "int8": 0.25}


class Peer(ABC):
    """A way to run a model that is compared with others.

    Attributes:
        name: Its name on the command line and in tables.
        summary: One line of description.
        packages: Distributions whose versions are recorded.
        modules: The modules that it imports.
        install: How to install missing modules.
        precision: The lowest precision of its arithmetic, which determines the tolerance.
        ours: Whether it is recfx itself, which is compared with the best of the others.
        copies: The largest number of copies of the model's state that it makes while it prepares.
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
        """Largest error of a right answer, relative to the largest output."""
        return TOLERANCES[self.precision]

    def available(self) -> str | None:
        """Why it cannot run on this machine, or None."""
        missing = [module for module in self.modules if importlib.util.find_spec(module) is None]
        return f"{', '.join(missing)} not installed: {self.install}" if missing else None

    def declines(self, job: Job) -> str | None:
        """Why it cannot run a model, or None."""
        return None

    @abstractmethod
    def prepare(self, job: Job) -> Run:
        """Prepares the model. It includes all work that is done once, such as compilation at the first call.

        Returns:
            A function from the result of `convert` to the model's outputs. Exactly this function is timed.
        """

    def convert(self, job: Job, inputs: Inputs) -> tuple[object, ...]:
        """Converts inputs to the arguments of `prepare`'s function. The conversion is not timed: callers are assumed to
        have the values in that form."""
        return inputs

    def release(self) -> None:  # noqa: B027 - most peers hold nothing
        """Called after a measurement, when the prepared function is no longer used."""


def warmed(call: Run, job: Job) -> Run:
    """Returns the function under inference mode, after one call with the job's inputs that includes compilation."""

    def run(*values: object) -> object:
        with torch.inference_mode():
            return call(*values)

    run(*job.inputs)
    return run
