"""`Plans`: the lowered plans of one program, and which of them runs at which batch size."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from recfx.driver.placed import Placed
from recfx.ir.program import Program
from recfx.runtime.choice import Fallbacks, by_rows

#: Backends whose errors at a call say that the inputs are wrong.
TRUSTED = frozenset({"native", "eager"})


@dataclasses.dataclass(frozen=True)
class Layout:
    """The operators' backends in every plan of a program, and which plan runs at which batch size.

    Attributes:
        assignments: For each plan, name of an operator -> its backend.
        bounds: See `Plans`.
        uses: Likewise.
        shown: Likewise.
    """

    assignments: tuple[Mapping[str, str], ...]
    bounds: tuple[int, ...] = ()
    uses: tuple[int, ...] = (0,)
    shown: int = 0


@dataclasses.dataclass(frozen=True)
class Plans:
    """The lowered plans of one program.

    Attributes:
        placed: The plans. Where one fails at a call, the next one takes its place; the last one runs on native kernels and torch only,
            if there are several.
        bounds: The first batch size of each range but the first, ascending.
        uses: The index of the plan of each range of batch sizes.
        shown: The index of the plan that the report and the placement describe: that of the example's batch size.
        failures: What happened to plans at calls, one line each.
    """

    placed: tuple[Placed, ...]
    bounds: tuple[int, ...] = ()
    uses: tuple[int, ...] = (0,)
    shown: int = 0
    failures: list[str] = dataclasses.field(default_factory=list, compare=False)

    @property
    def program(self) -> Program:
        """The program."""
        return self.placed[0].program

    @property
    def main(self) -> Placed:
        """The plan that the report and the placement describe."""
        return self.placed[self.shown]

    def layout(self) -> Layout:
        """The operators' backends in every plan."""
        return Layout(tuple(placed.assignment() for placed in self.placed), self.bounds, self.uses, self.shown)

    def runner(self) -> Callable[..., Any]:
        """Flat inputs -> flat outputs, on the plan of their batch size."""
        if len(self.placed) == 1:
            return self.placed[0].run
        trusted = [TRUSTED.issuperset(placed.backends) for placed in self.placed]
        fallbacks = Fallbacks([placed.run for placed in self.placed], trusted, self._failed)
        return by_rows(self.program.signature, [fallbacks.runner(use) for use in self.uses], self.bounds)

    def _failed(self, at: int, following: int, error: Exception) -> None:
        """Says once that a plan failed."""
        first, second = (described(self.placed[index]) for index in (at, following))
        problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        text = f"the plan on {first} failed at a call, so the plan on {second} runs from now on: {problem}"
        self.failures.append(text)
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def described(placed: Placed) -> str:
    """The backends of a plan: "openvino + native"."""
    return " + ".join(dict.fromkeys(placed.backends))
