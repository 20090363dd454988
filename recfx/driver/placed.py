"""`Placed`: a program on its backends, region by region, and the function that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from recfx.ir.program import Program
from recfx.ir.region import Region, Split
from recfx.runtime.schedule import schedule
from recfx.targets import Lowered


@dataclasses.dataclass(frozen=True)
class Placed:
    """A program whose regions are lowered.

    Attributes:
        split: The program and its regions.
        regions: The lowered regions, in order.
        run: The program's flat inputs -> its flat outputs.
    """

    split: Split
    regions: tuple[Lowered, ...]
    run: Callable[..., Any]

    @staticmethod
    def of(split: Split, regions: Sequence[Lowered]) -> Placed:
        """The regions of a split program, put together."""
        return Placed(split, tuple(regions), _run(split, regions))

    @property
    def program(self) -> Program:
        """The program."""
        return self.split.program

    @property
    def backends(self) -> tuple[str, ...]:
        """The backend of each region."""
        return self.split.backends

    def assignment(self) -> dict[str, str]:
        """Name of every operator -> its backend."""
        return {name: backend for index, backend in enumerate(self.backends) for name in self.split.members(index)}


def _run(split: Split, regions: Sequence[Lowered]) -> Callable[..., Any]:
    if len(regions) == 1:
        return regions[0].run
    return schedule(split, [region.graph or region.run for region in regions])


def alone(split: Split, index: int, lowered: Lowered) -> Callable[..., Any]:
    """The program with one region on its backend, and the others by their plain meaning."""

    def plain(region: Region) -> Callable[..., Any]:
        return lambda *values: region.run(values)

    runners: list[Callable[..., Any] | Region] = [plain(region) for region in split.regions]
    runners[index] = lowered.graph or lowered.run
    return schedule(split, runners)
