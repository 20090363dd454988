"""Measured regions on disk. They override the predictions of the model, and the model is fitted to them.

There is one file for each machine, number of threads, backend and version of the backend's library. Inside, a region is known by its
structure digest, which covers dtypes and sizes, and by the bucket of its rows.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recfx.cost.cache_files import Cache, cache_folder, file_name, read_document, update_document
from recfx.cost.estimate import Estimate
from recfx.cost.fit import Sample
from recfx.cost.machine import identity
from recfx.errors import ArtifactError
from recfx.formats.records import decode

_FORMAT = 1
#: The most regions in a file; the oldest are dropped.
_MOST = 4000


@dataclasses.dataclass(frozen=True)
class MeasuredUnit:
    """A measured region.

    Attributes:
        digest: Its structure digest; see `recfx.ir.canonical`.
        rows: The batch size.
        columns: Its columns; see `recfx.cost.roofline`.
        seconds: The time of one call of the region alone.
        low: The lower end of the measurement's interval.
        high: The upper end.
    """

    digest: str
    rows: int
    columns: dict[str, float]
    seconds: float
    low: float
    high: float

    @property
    def key(self) -> tuple[str, int]:
        """What a later measurement replaces: the region and the bucket of its rows."""
        return self.digest, bucket(self.rows)

    @property
    def estimate(self) -> Estimate:
        """The measured time."""
        return Estimate(self.seconds, self.low, self.high)

    def sound(self) -> bool:
        """Whether the numbers can be those of a measurement."""
        parts = all(0 <= value < math.inf for value in self.columns.values())
        return parts and self.rows >= 0 and 0 < self.low <= self.seconds <= self.high < math.inf


def bucket(rows: int) -> int:
    """The bucket of a number of rows: 1, 2, 3 to 4, 5 to 8, and so on."""
    return max(rows - 1, 0).bit_length()


class UnitCache:
    """The measured regions of one backend at one number of threads.

    Args:
        backend: The backend's name.
        version: The version of its library.
        threads: The number of threads.
        cache: Where the files are; False keeps the regions in memory only.
    """

    def __init__(self, backend: str, version: str, threads: int, cache: Cache = True) -> None:
        self._identity = (_FORMAT, *identity(threads), backend, version)
        folder = cache_folder(cache)
        self._path = None if folder is None else folder / file_name("units", self._identity)
        self._lock = threading.Lock()
        self._held = {} if self._path is None else _held(read_document(self._path), self._identity)
        self._of_digest: dict[str, list[MeasuredUnit]] = {}
        self._index()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, digest: str, rows: int) -> MeasuredUnit | None:
        """The measurement of a region at the nearest number of rows in the same bucket or a neighbouring one; None without one."""
        near = [unit for unit in self._of_digest.get(digest, ()) if abs(bucket(unit.rows) - bucket(rows)) <= 1]
        return min(near, key=lambda unit: abs(math.log(max(unit.rows, 1) / max(rows, 1))), default=None)

    def samples(self) -> Iterator[Sample]:
        """The measured regions for `recfx.cost.fit`."""
        for unit in list(self._held.values()):
            yield Sample(unit.columns, unit.seconds)

    def add(self, units: Sequence[MeasuredUnit]) -> None:
        """Keeps measurements, in memory and on disk. A region's earlier measurement in the same bucket is replaced.

        Processes that add to one file take turns, and each keeps what the others added. If the file cannot be written, a warning says so.
        """
        new = {unit.key: unit for unit in units if unit.sound()}
        if not new:
            return
        with self._lock:
            self._held = _newest(self._held, new)
            if self._path is not None:
                update_document(self._path, lambda found: self._document(_newest(_held(found, self._identity), new)))
            self._index()

    def _index(self) -> None:
        found: dict[str, list[MeasuredUnit]] = {}
        for unit in self._held.values():
            found.setdefault(unit.digest, []).append(unit)
        self._of_digest = found

    def _document(self, held: Mapping[Any, MeasuredUnit]) -> dict[str, Any]:
        return {"identity": _plain(self._identity), "units": [dataclasses.asdict(unit) for unit in held.values()]}


Held = dict[tuple[str, int], MeasuredUnit]


def _newest(held: Held, new: Held) -> Held:
    """The old and the new measurements, at most `_MOST`, the newest last."""
    joined = {key: unit for key, unit in held.items() if key not in new} | new
    return dict(list(joined.items())[-_MOST:])


def _held(document: Any, identity: tuple[object, ...]) -> Held:
    """The measurements of a file; none if it is damaged or of another machine, version or format."""
    if not isinstance(document, dict) or document.get("identity") != _plain(identity):
        return {}
    try:
        units = decode(tuple[MeasuredUnit, ...], document.get("units"), "units")
    except ArtifactError:
        return {}
    return {unit.key: unit for unit in units if unit.sound()}


def _plain(identity: tuple[object, ...]) -> list[Any]:
    """An identity as JSON gives it back."""
    return [list(part) if isinstance(part, tuple) else part for part in identity]
