"""The interface of backends."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from operator import getitem
from typing import Any, ClassVar

import torch
from torch import fx

from recfx.cost.estimate import Estimate
from recfx.errors import TargetError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.runtime.flat import flat_function
from recfx.version import VERSION

Runner = Callable[..., tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a backend can run an operator, and if not, why.

    Attributes:
        supported: Whether it can.
        reason: Why it cannot; "" if it can.
    """

    supported: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.supported


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A region made runnable by a backend.

    Attributes:
        backend: The backend's name.
        region: The region that was lowered.
        body: A function, or a graph of calls. It takes the region's flat inputs by position and returns its flat outputs as a tuple.
            A graph becomes part of the function that runs the whole program, which saves one call per region.
        left: The operators that torch runs, in order: name and reason.
        operators: How many operators the region has; sizes and parts of tuples are not counted.
        sized: The names in `region.outputs` whose sizes match the program's if those of the inputs in `region.checked` do.
    """

    backend: str
    region: Region
    body: Runner | Region
    left: tuple[tuple[str, str], ...] = ()
    operators: int = 0
    sized: frozenset[str] = frozenset()

    @cached_property
    def run(self) -> Runner:
        """The body as a function."""
        return flat_function(self.body) if isinstance(self.body, Region) else self.body


class Refused(TargetError):
    """A backend cannot run some operators of the region that it was given. In another region it may run them.

    Args:
        reasons: Name of an operator -> why.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__(
            "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items()),
            hint="give these operators to another backend, such as 'eager'",
        )


def is_operator(node: fx.Node) -> bool:
    """Whether a node computes tensors, rather than a size or a part of a tuple."""
    sizes = torch.SymInt | torch.SymFloat | torch.SymBool | int | float
    return node.op == "call_function" and node.target is not getitem and not isinstance(node.meta.get("val"), sizes)


class Backend(ABC):
    """A way to run programs. One instance serves many programs and threads and holds no state of a program."""

    name: ClassVar[str]
    devices: ClassVar[frozenset[str]]
    #: How its results differ from torch's own operators: EXACT keeps every bit, REASSOC reorders sums.
    exactness: ClassVar[Exactness] = Exactness.EXACT

    @abstractmethod
    def unavailable(self) -> str | None:
        """None when the backend can run here, otherwise the missing part and how to install it."""

    def absent(self) -> str | None:
        """None when the packages of the backend are installed, otherwise as `unavailable`. Unlike that, it imports none of them.

        A package that is installed and broken is found when the backend is first asked about a program.
        """
        return self.unavailable()

    def state(self) -> str:
        """The state of the backend on this machine in a few words. Called only where `unavailable` returns None."""
        return "ready"

    def version(self) -> str:
        """The version of the library behind the backend. Stored measurements and packages are valid for one version only."""
        return VERSION

    def kernels(self) -> frozenset[str]:
        """Names of the operators for which the backend has its own kernels, such as "recfx::mlp".

        The default pipeline of a target forms only those operators of the dialect.
        """
        return frozenset()

    @abstractmethod
    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        """For every operator of a program, whether the backend can run it, if other backends run the unsupported ones.

        The call lowers nothing and copies no weight.
        """

    def estimate(self, region: Region, rows: int, threads: int) -> Estimate | None:
        """The time of the operators of a region in one call, without the cost of the call itself; None for that of the cost model.

        Args:
            region: The region. The call lowers nothing.
            rows: The batch size.
            threads: The number of torch's threads.
        """
        return None

    def slow_to_lower(self, region: Region) -> bool:
        """Whether lowering takes tens of seconds. The region then goes to the backend only if a target names the backend."""
        return False

    @abstractmethod
    def lower(self, region: Region) -> Lowered:
        """Makes a region runnable.

        Raises:
            Refused: The backend cannot run some operators in this region. The caller gives them to another backend.
            TargetError: The region cannot be lowered for another reason.
        """

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        """Files of a saved model that make loading cheaper than lowering again: name -> content. The default saves none."""
        return {}

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        """Restores a region from the files of `save`. The default lowers the region again.

        Args:
            region: The region.
            files: The files. Their digests have been checked, but their content is not trusted.

        Raises:
            ArtifactError: The files do not fit the region.
        """
        return self.lower(region)
