"""Results of a run, and their JSON form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.accuracy import Error
from benchmarks.limits import Limit, Work
from recfx.cost.bootstrap import Ratio
from recfx.cost.comparison import Timing
from recfx.cost.machine import Machine
from recfx.errors import InputError

_FORMAT = 2

#: The statuses of a measurement: timed, wrong answers (not timed), an error, or not installed.
STATUSES = ("ok", "wrong", "failed", "unavailable")


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """A point of comparison: a case at a thread count, id distribution and batch size."""

    case: str
    threads: int
    zipf: float | None
    batch: int

    def ids(self) -> str:
        """The ids' distribution in words."""
        return "uniform ids" if self.zipf is None else f"Zipf {self.zipf:g} ids"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One peer at one point.

    Attributes:
        point: The point.
        peer: The peer's name.
        status: One of `STATUSES`.
        reason: Why the status is not "ok".
        prepare_seconds: Time until the first answer.
        error: Distance of the outputs from eager's.
        timing: Seconds per call.
        ratio: Ratio of medians to eager.
    """

    point: Point
    peer: str
    status: str
    reason: str | None = None
    prepare_seconds: float | None = None
    error: Error | None = None
    timing: Timing | None = None
    ratio: Ratio | None = None


@dataclasses.dataclass(frozen=True)
class Bound:
    """The physical limit at one point, by precision, and the work from which it is computed; `sets` inputs are used in
    turn."""

    point: Point
    sets: int
    work: Work
    limits: dict[str, Limit]

    @property
    def limit(self) -> Limit:
        """The limit of fp32."""
        return self.limits["fp32"]


@dataclasses.dataclass(frozen=True)
class PeerNote:
    """A peer's properties for tables: its precision, and whether it is recfx itself."""

    precision: str
    ours: bool


@dataclasses.dataclass
class Results:
    """A whole run.

    Attributes:
        environment: See `benchmarks.environment`.
        settings: The settings of the run.
        cases: Name -> summary.
        machines: Threads -> measured limits of the machine.
        peaks: Threads -> precision -> operations per second.
        peers: Name -> description.
        bounds: Physical limits.
        measurements: The measurements.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    cases: dict[str, str] = dataclasses.field(default_factory=dict)
    machines: dict[int, Machine] = dataclasses.field(default_factory=dict)
    peaks: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    peers: dict[str, PeerNote] = dataclasses.field(default_factory=dict)
    bounds: list[Bound] = dataclasses.field(default_factory=list)
    measurements: list[Measurement] = dataclasses.field(default_factory=list)

    def own_faults(self) -> list[Measurement]:
        """The measurements in which recfx itself failed or gave wrong answers."""
        ours = {name for name, note in self.peers.items() if note.ours}
        return [each for each in self.measurements if each.peer in ours and each.status in ("wrong", "failed")]

    def complete(self, point: Point, peers: Iterable[str]) -> bool:
        """Whether a point was measured with exactly these peers."""
        measured = [m.peer for m in self.measurements if m.point == point]
        return sorted(measured) == sorted(peers)

    def drop(self, point: Point) -> None:
        """Removes the results of a point."""
        self.measurements = [m for m in self.measurements if m.point != point]
        self.bounds = [bound for bound in self.bounds if bound.point != point]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": _FORMAT,
            "environment": self.environment,
            "settings": self.settings,
            "cases": self.cases,
            "machines": {str(threads): machine.to_json() for threads, machine in self.machines.items()},
            "peaks": {str(threads): peaks for threads, peaks in self.peaks.items()},
            "peers": {name: dataclasses.asdict(note) for name, note in self.peers.items()},
            "bounds": [{**dataclasses.asdict(bound), "work": bound.work.to_json()} for bound in self.bounds],
            "measurements": [dataclasses.asdict(measurement) for measurement in self.measurements],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Restores the result of `to_json`.

        Raises:
            InputError: The format differs.
        """
        try:
            if values["format"] != _FORMAT:
                raise ValueError(f"format {values['format']} instead of {_FORMAT}")
            return cls(
                environment=values["environment"],
                settings=values["settings"],
                cases=values["cases"],
                machines={int(threads): Machine.from_json(machine) for threads, machine in values["machines"].items()},
                peaks={int(threads): peaks for threads, peaks in values["peaks"].items()},
                peers={name: PeerNote(**note) for name, note in values["peers"].items()},
                bounds=[_bound(bound) for bound in values["bounds"]],
                measurements=[_measurement(measurement) for measurement in values["measurements"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not benchmark results: {error}",
                where="benchmarks",
                hint="pass a file that `python -m benchmarks` wrote",
            ) from error

    def save(self, path: Path) -> None:
        """Writes JSON atomically: a reader finds either the old file or the new file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that `save` wrote.

        Raises:
            InputError: The file is missing, or holds other content.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot read results: {error}", where=str(path), hint="pass a file that `python -m benchmarks` wrote"
            ) from error
        return cls.from_json(values)


def _bound(values: Mapping[str, Any]) -> Bound:
    work = Work.from_json(values["work"])
    return Bound(
        Point(**values["point"]),
        values["sets"],
        work,
        {kind: Limit(**limit) for kind, limit in values["limits"].items()},
    )


def _measurement(values: Mapping[str, Any]) -> Measurement:
    parts = {"error": Error, "timing": Timing, "ratio": Ratio}
    made = {key: kind(**values[key]) if values[key] is not None else None for key, kind in parts.items()}
    return Measurement(**{**values, **made, "point": Point(**values["point"])})
