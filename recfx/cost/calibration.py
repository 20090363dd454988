"""The calibration of a machine: its limits, measured regions of every backend, and the cost of hand-offs between backends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from recfx.cost.cache_files import Cache, cache_folder, file_name, read_document, write_document
from recfx.cost.fit import Sample
from recfx.cost.machine import Machine, identity
from recfx.errors import ArtifactError, MeasureError
from recfx.formats.records import decode

#: Changes when columns or subjects change, so that older files are measured again.
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured module.

    Attributes:
        name: Its name in `recfx.cost.calibration_modules`.
        rows: The batch size.
        columns: The columns of its region; see `recfx.cost.roofline`.
        seconds: The time of one call.
    """

    name: str
    rows: int
    columns: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class BackendPoints:
    """The measured modules of a backend.

    Attributes:
        version: The version of the backend's library.
        points: The modules that it ran.
        refused: Name of a module that it did not run -> the reason.
        complete: Whether all modules were tried. Time may not suffice for a backend that compiles for long.
    """

    version: str
    points: tuple[Point, ...]
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    complete: bool = True

    def samples(self) -> list[Sample]:
        """The measured modules for `recfx.cost.fit`."""
        return [Sample(point.columns, point.seconds) for point in self.points]


@dataclasses.dataclass(frozen=True)
class Handoff:
    """The time to give a tensor of one backend to another one."""

    source: str
    destination: str
    nbytes: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was measured on a machine at a number of threads.

    Attributes:
        machine: The machine's limits, the threads and the version of torch.
        backends: Name -> the measured modules.
        handoffs: The cost of hand-offs between every two backends.
    """

    machine: Machine
    backends: dict[str, BackendPoints] = dataclasses.field(default_factory=dict)
    handoffs: tuple[Handoff, ...] = ()

    def missing(self, versions: Mapping[str, str]) -> list[str]:
        """The backends without a measurement of the given version.

        Args:
            versions: Name of a backend -> the version of its library.
        """
        return [n for n, version in versions.items() if n not in self.backends or self.backends[n].version != version]

    def handoff(self, source: str, destination: str, nbytes: int) -> float | None:
        """The time of a hand-off by linear interpolation over the bytes; None if it was not measured."""
        found = sorted(
            (h.nbytes, h.seconds) for h in self.handoffs if (h.source, h.destination) == (source, destination)
        )
        if not found:
            return None
        (small, least), (large, most) = found[0], found[-1]
        slope = max(most - least, 0.0) / (large - small) if large > small else 0.0
        return max(least + slope * (nbytes - small), 0.0) if nbytes > small else least

    def to_json(self) -> dict[str, Any]:
        """The calibration as values for JSON."""
        return {
            "format": _FORMAT,
            "machine": self.machine.to_json(),
            "backends": {name: dataclasses.asdict(held) for name, held in self.backends.items()},
            "handoffs": [dataclasses.asdict(handoff) for handoff in self.handoffs],
        }

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The calibration that `to_json` wrote.

        Raises:
            MeasureError: The values are not a calibration of this format.
        """
        try:
            plain = dict(values)
            if plain.pop("format", None) != _FORMAT:
                raise ValueError("another format")
            machine = Machine.from_json(plain.pop("machine"))
            backends = decode(dict[str, BackendPoints], plain.pop("backends"), "backends")
            handoffs = decode(tuple[Handoff, ...], plain.pop("handoffs"), "handoffs")
            times = [p.seconds for held in backends.values() for p in held.points]
            parts = [value for held in backends.values() for p in held.points for value in p.columns.values()]
            sizes = [handoff.nbytes for handoff in handoffs]
            passed = [*parts, *sizes, *(handoff.seconds for handoff in handoffs)]
            if plain or not all(0 < time < math.inf for time in times) or not all(0 <= p < math.inf for p in passed):
                raise ValueError("a time is missing, or there is an unknown key")
        except (ArtifactError, MeasureError, AttributeError, KeyError, TypeError, ValueError) as error:
            what = getattr(error, "in_one_line", str(error))
            raise MeasureError(f"not a calibration: {what}", hint="run `recfx calibrate` again") from error
        return cls(machine, backends, handoffs)


def calibration_path(threads: int, cache: Cache = True) -> Path | None:
    """The file of this machine's calibration at a number of threads; None without a cache."""
    folder = cache_folder(cache)
    return None if folder is None else folder / file_name("calibration", (_FORMAT, *identity(threads)))


def known_calibration(threads: int, cache: Cache = True) -> Calibration | None:
    """The stored calibration of this machine at a number of threads.

    None if there is no file, or if the file is damaged, of another format or of another machine.
    """
    path = calibration_path(threads, cache)
    document = None if path is None else read_document(path)
    if document is None:
        return None
    try:
        found = Calibration.from_json(document)
    except MeasureError:
        return None
    return found if found.machine.identity == identity(threads) else None


def store(calibration: Calibration, cache: Cache = True) -> bool:
    """Writes a calibration to the cache folder, and returns whether that succeeded."""
    path = calibration_path(calibration.machine.threads, cache)
    return path is not None and write_document(path, calibration.to_json())
