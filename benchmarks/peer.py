"""What a peer is: a way to run a model, to be compared with eager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

Run = Callable[..., object]


class Peer(ABC):
    """One contender.

    Attributes:
        name: What it is called on the command line and in tables.
        summary: One line on what it does.
        packages: Distributions whose versions matter to it.
        tolerance: Largest error that counts as right, relative to the largest output. The default is that of re-associated fp32
            arithmetic; lower precisions state their own.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[float] = 1e-3

    def available(self) -> str | None:
        """Why it cannot be used here, or None when it can."""
        return None

    @abstractmethod
    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        """Makes the model ready; whatever happens once happens here, compilation at the first call included.

        Args:
            model: In eval mode; not to be changed.
            inputs: Positional inputs, of the batch size that will be used.

        Returns:
            A function of such inputs that gives the model's outputs. It is timed as it is, conversions included.
        """

    def release(self) -> None:  # noqa: B027 - most peers hold nothing
        """Called after a measurement, when nothing prepared is used any more."""
