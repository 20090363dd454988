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
        return Placed(split, tuple(regions), schedule(split, [region.body for region in regions]))

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


def lower_regions(split: Split, lower: Callable[[int, Region], Lowered | None]) -> list[Lowered]:
    """Lowers the regions of a split program in order. Each region gets the input sizes that are known from earlier regions.

    Args:
        split: The split program.
        lower: `(index, region)` -> the lowered region, or None if that fails.

    Returns:
        The lowered regions.
    """
    sized = set[str]()
    found = []
    for index, region in enumerate(split.regions):
        known = dataclasses.replace(region, checked=region.checked | sized.intersection(region.inputs))
        lowered = lower(index, known)
        if lowered is not None:
            sized |= lowered.sized
            found.append(lowered)
    return found


def alone(split: Split, index: int, lowered: Lowered) -> Callable[..., Any]:
    """The program with one region on its backend and all other regions run by torch."""

    def plain(region: Region) -> Callable[..., Any]:
        return lambda *values: region.run(values)

    runners: list[Callable[..., Any] | Region] = [plain(region) for region in split.regions]
    runners[index] = lowered.body
    return schedule(split, runners)
