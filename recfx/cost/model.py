"""`CostModel`: predicted times of regions, calls and hand-offs, from limits of the machine and weights fitted to measured regions."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from recfx.cost.cache_files import Cache
from recfx.cost.calibration import Calibration, known_calibration
from recfx.cost.default_machine import default_machine, scaled_to
from recfx.cost.estimate import NOTHING, Estimate
from recfx.cost.fit import Sample, Weights, fit
from recfx.cost.machine import Machine, known_machine
from recfx.cost.priors import HANDOFF, prior
from recfx.cost.roofline import columns
from recfx.cost.unit_cache import MeasuredUnit, UnitCache
from recfx.cost.work import work_of
from recfx.errors import ArtifactError
from recfx.ir.canonical import structure_digest
from recfx.ir.region import Region

#: Shares of a predicted hand-off in which the true one is expected.
_HANDOFF_SPREAD = (0.3, 3.0)
#: A region takes at least this share of its measured time without the cost of the call, which is a fitted one.
_LEAST_SHARE = 0.1


class CostModel:
    """Predicts times of regions on backends.

    A measured region has its measured time. Any other region has the sum of its limits on this machine, each times a weight of the
    backend; the weights are fitted to the calibration and to all measured regions, and without either they are those that recfx ships.
    Nothing is measured.

    Args:
        calibrations: Number of threads -> a calibration that replaces the one in the cache folder.
        cache: Where calibrations and measured regions are stored.
        versions: Name of a backend -> the version of its library. Measured regions of other versions do not count.
    """

    def __init__(
        self,
        calibrations: Mapping[int, Calibration] | None = None,
        *,
        cache: Cache = True,
        versions: Mapping[str, str] | Callable[[str], str] | None = None,
    ) -> None:
        self._cache = cache
        self._given = calibrations or {}
        self._versions = versions
        self._lock = threading.RLock()
        self._calibrations: dict[int, Calibration | None] = {}
        self._machines: dict[int, Machine] = {}
        self._units: dict[tuple[str, int], UnitCache] = {}
        self._weights: dict[tuple[str, int], Weights] = {}
        self._regions: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()

    def unit(self, backend: str, region: Region, rows: int, threads: int) -> Estimate:
        """The time of the operators of a region in one call, without the cost of the call itself.

        Args:
            backend: The name of the backend; a name without any measurement has the weights of an unknown backend.
            region: The operators.
            rows: The batch size.
            threads: The number of torch's threads.
        """
        known = self._known(region)
        predicted = self.weights(backend, threads).predict(self._columns(known, region, rows, threads))
        measured = self._measured(backend, known, region, rows, threads)
        return predicted if measured is None else self._without_call(measured, backend, threads)

    def launch(self, backend: str, threads: int) -> Estimate:
        """The time of the call of a region without work."""
        return self.weights(backend, threads).call()

    def handoff(self, source: str, destination: str, nbytes: int, threads: int) -> Estimate:
        """The time to give a tensor of one backend to another one."""
        if source == destination:
            return NOTHING
        calibration = self._calibration(threads)
        found = None if calibration is None else calibration.handoff(source, destination, nbytes)
        seconds = HANDOFF if found is None else found
        low, high = _HANDOFF_SPREAD
        return Estimate(seconds, seconds * low, max(seconds * high, HANDOFF))

    def record(self, backend: str, region: Region, rows: int, threads: int, measured: Estimate) -> None:
        """Keeps the measured time of one call of a region alone, in memory and in the cache; later predictions use it.

        Args:
            backend: The name of the backend.
            region: The region.
            rows: The batch size.
            threads: The number of torch's threads.
            measured: The time and the interval of the measurement.
        """
        known = self._known(region)
        if known.digest is None:
            return
        found = self._columns(known, region, rows, threads)
        unit = MeasuredUnit(known.digest, rows, found, measured.seconds, measured.low, measured.high)
        self.units(backend, threads).add([unit])
        with self._lock:
            self._weights.pop((backend, threads), None)

    def weights(self, backend: str, threads: int) -> Weights:
        """The weights of a backend, fitted at their first use and after new measurements."""
        with self._lock:
            key = (backend, threads)
            if key not in self._weights:
                self._weights[key] = fit(self._samples(backend, threads), prior(backend))
            return self._weights[key]

    def units(self, backend: str, threads: int) -> UnitCache:
        """The measured regions of a backend."""
        with self._lock:
            key = (backend, threads)
            if key not in self._units:
                self._units[key] = UnitCache(backend, self._version(backend), threads, self._cache)
            return self._units[key]

    def machine(self, threads: int) -> Machine:
        """The limits of the machine: measured, or scaled from another number of threads, or those of a common machine."""
        with self._lock:
            if threads not in self._machines:
                self._machines[threads] = self._limits(threads)
            return self._machines[threads]

    def _version(self, backend: str) -> str:
        if self._versions is None:
            return ""
        return self._versions.get(backend, "") if isinstance(self._versions, Mapping) else self._versions(backend)

    def _calibration(self, threads: int) -> Calibration | None:
        with self._lock:
            if threads not in self._calibrations:
                given = self._given.get(threads)
                self._calibrations[threads] = known_calibration(threads, self._cache) if given is None else given
            return self._calibrations[threads]

    def _limits(self, threads: int) -> Machine:
        for other in (threads, 1):
            calibration = self._calibration(other)
            found = known_machine(other, self._cache) if calibration is None else calibration.machine
            if found is not None:
                return found if other == threads else scaled_to(found, threads)
        return default_machine(threads)

    def _samples(self, backend: str, threads: int) -> list[Sample]:
        """The measured regions at a number of threads; those at one thread if no region was measured at that number."""
        for count in dict.fromkeys((threads, 1)):
            calibration = self._calibration(count)
            held = calibration.backends.get(backend) if calibration is not None else None
            version = self._version(backend)
            fits = held is not None and version in ("", held.version)
            found = [*(held.samples() if held is not None and fits else ()), *self.units(backend, count).samples()]
            if found:
                return found
        return []

    def _known(self, region: Region) -> _Known:
        with self._lock:
            found = self._regions.get(region.module)
            if found is None:
                found = self._regions[region.module] = _Known(region)
            return found

    def _columns(self, known: _Known, region: Region, rows: int, threads: int) -> dict[str, float]:
        key = (rows, threads)
        if key not in known.columns:
            known.columns[key] = columns(work_of(region, rows), self.machine(threads))
        return known.columns[key]

    def _measured(self, backend: str, known: _Known, region: Region, rows: int, threads: int) -> Estimate | None:
        """The measured time of a region: at this number of rows, or one at other rows times the ratio of the predictions."""
        units = self.units(backend, threads)
        found = None if known.digest is None or not len(units) else units.find(known.digest, rows)
        if found is None or found.rows == rows:
            return None if found is None else found.estimate
        weights = self.weights(backend, threads)
        here, there = (
            weights.predict(self._columns(known, region, number, threads)).seconds + weights.call().seconds
            for number in (rows, found.rows)
        )
        return found.estimate.scaled(here / there) if there > 0 else found.estimate

    def _without_call(self, measured: Estimate, backend: str, threads: int) -> Estimate:
        call = self.launch(backend, threads).seconds
        times = (max(time - call, time * _LEAST_SHARE) for time in (measured.seconds, measured.low, measured.high))
        return Estimate(*times)


class _Known:
    """What is known of a region, for all backends.

    Attributes:
        digest: Its structure digest; None if it has none.
        columns: (rows, threads) -> its columns.
    """

    def __init__(self, region: Region) -> None:
        self.columns: dict[tuple[int, int], dict[str, float]] = {}
        self.digest: str | None
        try:
            self.digest = structure_digest(region)
        except ArtifactError:
            self.digest = None
