"""Measures a machine and the backends on it: the modules of `recfx.cost.calibration_modules`, calls, and hand-offs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recfx.cost.calibration import BackendPoints, Calibration, Handoff, Point
from recfx.cost.calibration_modules import CALL, Subject, subjects
from recfx.cost.machine import Machine, measure_machine
from recfx.cost.roofline import columns
from recfx.cost.work import work_of
from recfx.errors import MeasureError
from recfx.ir.region import Region
from recfx.kernels.background import BACKGROUND

#: The longest that a calibration takes by default.
SECONDS = 50.0
ROWS = (1, 16, 256, 1024)
_POINT_SECONDS = 0.006
_MOST_CALLS = 200
_HANDOFF_ROWS = (1, 256)
_HANDOFF_ROUNDS = 40
#: A part of the time is kept for hand-offs.
_KEPT = 0.1

Run = Callable[..., Any]


class Harness(Protocol):
    """A backend under calibration."""

    @property
    def version(self) -> str:
        """The version of its library."""
        ...

    def lower(self, region: Region) -> Run:
        """The function that runs a region on flat inputs. Any error counts as a refusal."""
        ...


#: A module, its example inputs and a precision -> its forms as a region, the first as `recfx.optimize` would lower it. A backend that
#: refuses a form gets the next one, such as one without operators of the dialect.
Capture = Callable[[nn.Module, tuple[Tensor, ...], str], Sequence[Region]]


def calibrate(
    harnesses: Mapping[str, Harness],
    capture: Capture,
    *,
    known: Calibration | None = None,
    precisions: Sequence[str] = ("fp32",),
    seconds: float = SECONDS,
    advance: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Measures backends at torch's present number of threads.

    Args:
        harnesses: Name -> the backend to measure.
        capture: Makes regions of modules.
        known: An earlier calibration. Its machine and its other backends are kept.
        precisions: The precisions to measure.
        seconds: The longest that the measurement may take. Each backend has an equal share. The most important modules come first, so
            that a backend that compiles for long has at least these.
        advance: Called with 1 after each module of each backend; see `steps`.

    Raises:
        MeasureError: No backend could run any module.
    """
    end = time.perf_counter() + seconds
    machine = measure_machine() if known is None else known.machine
    measuring = _Measuring(machine, capture, harnesses, end - _KEPT * seconds)
    with BACKGROUND, torch.inference_mode():
        for subject in subjects(precisions):
            for name in harnesses:
                measuring.measure(name, subject)
                advance(1)
        kept = () if known is None else known.handoffs
        before = [h for h in kept if h.source not in harnesses and h.destination not in harnesses]
        others = {} if known is None else known.backends
        handoffs = measuring.handoffs(end)
    results = measuring.results()
    if harnesses and not any(held.points for held in results.values()):
        name, held = next(iter(results.items()))
        raise MeasureError(
            f"no module could be measured; the first reason: {next(iter(held.refused.values()), 'time did not suffice')}",
            where=f"the backend {name}",
            hint="run `recfx doctor`, and `recfx calibrate` again",
        )
    return Calibration(machine, {**others, **results}, (*before, *handoffs))


def steps(backends: int, precisions: Sequence[str] = ("fp32",)) -> int:
    """How often `calibrate` calls `advance`."""
    return backends * len(subjects(precisions))


class _Measuring:
    """Measures modules on backends; each module is captured once.

    Args:
        machine: The limits of the machine.
        capture: Makes regions of modules.
        harnesses: The backends.
        end: When to stop.
    """

    def __init__(self, machine: Machine, capture: Capture, harnesses: Mapping[str, Harness], end: float) -> None:
        self.machine, self.capture, self.harnesses, self.end = machine, capture, harnesses, end
        self.regions: dict[str, Sequence[Region] | Exception] = {}
        self.points: dict[str, list[Point]] = {name: [] for name in harnesses}
        self.refused: dict[str, dict[str, str]] = {name: {} for name in harnesses}
        self.skipped: set[str] = set()
        self.spent = dict.fromkeys(harnesses, 0.0)
        self.share = max(end - time.perf_counter(), 0.0) / max(len(harnesses), 1)

    def results(self) -> dict[str, BackendPoints]:
        """The measured modules of each backend."""
        return {
            name: BackendPoints(harness.version, tuple(self.points[name]), self.refused[name], name not in self.skipped)
            for name, harness in self.harnesses.items()
        }

    def measure(self, name: str, subject: Subject) -> None:
        """Measures a module on a backend, unless the backend has used its share of the time."""
        begun = time.perf_counter()
        if self.points[name] and (begun > self.end or self.spent[name] > self.share):
            self.skipped.add(name)
            return
        try:
            regions = self.forms(subject)
            begun = time.perf_counter()
            self.points[name] += self._points(subject, *_lowered(self.harnesses[name], regions))
        except Exception as error:  # noqa: BLE001 - a backend may fail in any way; the reason is kept
            reason = str(error).strip().partition("\n")[0][:200]
            self.refused[name][subject.name] = f"{type(error).__name__}: {reason}"
        self.spent[name] += time.perf_counter() - begun

    def forms(self, subject: Subject) -> Sequence[Region]:
        """The forms of a module as a region.

        Raises:
            Exception: The module cannot be captured; the same error at every call.
        """
        if subject.name not in self.regions:
            with torch.inference_mode(False):
                try:
                    made = self.capture(subject.build().eval(), subject.inputs(16), subject.precision)
                    self.regions[subject.name] = made
                except Exception as error:  # noqa: BLE001 - raised below, for every backend
                    self.regions[subject.name] = error
        found = self.regions[subject.name]
        if isinstance(found, Exception):
            raise found
        return found

    def _points(self, subject: Subject, region: Region, run: Run) -> list[Point]:
        found = []
        for rows in ROWS:
            if rows <= subject.rows:
                values = subject.inputs(rows)
                seconds = least_median(lambda values=values: run(*values))  # type: ignore[misc]
                found.append(Point(subject.name, rows, columns(work_of(region, rows), self.machine), seconds))
        return found

    def handoffs(self, end: float) -> list[Handoff]:
        """Measures a hand-off between every two backends that run the module `CALL`, until the time has passed."""
        ran = [name for name, points in self.points.items() if any(point.name == CALL.name for point in points)]
        runs = {name: _lowered(self.harnesses[name], self.forms(CALL))[1] for name in ran}
        found = []
        for source, first in runs.items():
            for destination, second in runs.items():
                for rows in _HANDOFF_ROWS:
                    if source != destination and time.perf_counter() < end:
                        (x,) = CALL.inputs(rows)
                        seconds = _handoff(first, second, x)
                        found.append(Handoff(source, destination, x.numel() * x.element_size(), seconds))
        return found


def _lowered(harness: Harness, regions: Sequence[Region]) -> tuple[Region, Run]:
    """The first form that a backend lowers, and the function that runs it.

    Raises:
        Exception: The backend refuses all forms; the error is that of the first one.
    """
    problem: Exception | None = None
    for region in regions:
        try:
            return region, harness.lower(region)
        except Exception as error:  # noqa: BLE001 - raised below
            problem = problem or error
    raise problem or ValueError("the module has no form")


def least_median(call: Callable[[], object], seconds: float = _POINT_SECONDS) -> float:
    """Seconds of a call: the least of three medians, so that one disturbance of the machine does not count."""
    with BACKGROUND:
        call()
        return max(min(_median(call, seconds / 3) for _ in range(3)), 1) * 1e-9


def _median(call: Callable[[], object], seconds: float) -> float:
    """Nanoseconds of a call."""
    taken: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(taken) < 3 or (len(taken) < _MOST_CALLS and time.perf_counter_ns() < end):
        start = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken)


def _handoff(first: Run, second: Run, x: Tensor) -> float:
    """The time of two backends one after the other, less the time of each alone."""
    (between,) = first(x)
    taken: tuple[list[int], list[int], list[int]] = ([], [], [])

    def both() -> None:
        second(*first(x))

    calls = (lambda: first(x), lambda: second(between), both)
    for _ in range(_HANDOFF_ROUNDS):
        for call, times in zip(calls, taken, strict=True):
            call()
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
    one, other, together = (statistics.median(times) for times in taken)
    return max(together - one - other, 0.0) * 1e-9
