"""Runs peers on cases: prepare, check against eager, time in turns."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy import error_of, outputs
from benchmarks.case import Case
from benchmarks.environment import environment
from benchmarks.limits import Work, count_work, limit_of
from benchmarks.peer import Peer, Run
from benchmarks.results import Bound, Measurement, Point, Results
from recfx.cost.machine import Machine, measure_machine
from recfx.cost.timing import Comparison, compare
from recfx.errors import InputError, MeasureError

BASELINE = "eager"
_CHECKED_SETS = 16
_MIN_SETS, _MAX_SETS = 4, 4096

Inputs = tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        batches: Batch sizes.
        threads: Numbers of threads.
        zipfs: Exponents of the ids' distributions; None for uniform ids.
        seconds: Time for each peer at each point.
        footprint: Bytes of table rows that the rotated inputs shall touch, so that rows come from where they would in service.
        seed: Seed of inputs, order and intervals.
    """

    batches: tuple[int, ...] = (1, 16, 64)
    threads: tuple[int, ...] = (1,)
    zipfs: tuple[float | None, ...] = (None,)
    seconds: float = 1.0
    footprint: int = 64 * 2**20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("batch", self.batches), ("threads", self.threads)):
            if not values or min(values) < 1:
                raise InputError(f"{name} must be numbers from 1, got {list(values)}", where="benchmarks")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"seconds must be positive, got {self.seconds}", where="benchmarks")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


class Watcher:
    """Is told what happens; the base class takes no notice."""

    def begin(self, point: Point, doing: str) -> None:
        """Something that takes time begins."""

    def done(self, point: Point) -> None:
        """All peers were measured at a point."""

    def changed(self, results: Results) -> None:
        """There are new results."""


def run(
    cases: Sequence[Case],
    peers: Sequence[Peer],
    settings: Settings,
    *,
    watcher: Watcher | None = None,
    machine: Callable[[], Machine] = measure_machine,
) -> Results:
    """Measures every peer on every case.

    Args:
        cases: What to run.
        peers: Who runs; one must be called "eager".
        settings: Batch sizes, threads, time.
        watcher: Is told what happens.
        machine: Measures the machine at the present number of threads.

    Raises:
        InputError: No peer is called "eager".
    """
    if BASELINE not in {peer.name for peer in peers}:
        raise InputError(f"the peers lack {BASELINE!r}, which all are compared with", where="benchmarks")
    watcher = watcher or Watcher()
    packages = {package for peer in peers for package in peer.packages}
    results = Results(environment(packages), {**settings.to_json(), "peers": [peer.name for peer in peers]})
    before = torch.get_num_threads()
    try:
        for threads in settings.threads:
            torch.set_num_threads(threads)
            results.machines[threads] = machine()
        for case in cases:
            _CaseRun(case, peers, settings, results, watcher).run()
            gc.collect()
    finally:
        torch.set_num_threads(before)
    return results


class _CaseRun:
    """One case at all its points."""

    def __init__(
        self, case: Case, peers: Sequence[Peer], settings: Settings, results: Results, watcher: Watcher
    ) -> None:
        self.case = case
        self.peers = peers
        self.settings = settings
        self.results = results
        self.watcher = watcher
        self.results.cases[case.name] = case.summary

    def run(self) -> None:
        """Builds the model and goes through the points; what goes wrong becomes a result."""
        axes = (self.settings.threads, self.settings.zipfs, self.settings.batches)
        points = [Point(self.case.name, *where) for where in itertools.product(*axes)]
        self.watcher.begin(points[0], "building the model")
        try:
            reason = self.case.unfit()
            model = None if reason else self.case.model()
        except Exception as error:  # noqa: BLE001 - recorded as the case's result, the other cases go on
            model, reason = None, _why(error)
        for point in points:
            if model is None:
                self.results.measurements.append(Measurement(point, BASELINE, "failed", reason))
            else:
                torch.set_num_threads(point.threads)
                self._measure(model, point)
            self.watcher.done(point)
            self.watcher.changed(self.results)

    def _measure(self, model: nn.Module, point: Point) -> None:
        try:
            sets = self._input_sets(model, point)
        except Exception as error:  # noqa: BLE001 - recorded as the point's result, the other points go on
            self.results.measurements.append(Measurement(point, BASELINE, "failed", _why(error)))
            return
        found: dict[str, Measurement] = {}
        runs: dict[str, Run] = {}
        reference: list[object] | None = None
        try:
            for peer in sorted(self.peers, key=lambda peer: peer.name != BASELINE):
                if reference is None and peer.name != BASELINE:
                    found[peer.name] = Measurement(point, peer.name, "failed", "eager failed: nothing to compare with")
                    continue
                self.watcher.begin(point, f"preparing {peer.name}")
                found[peer.name], answers = self._prepare(peer, model, sets, reference, point, runs)
                reference = answers if peer.name == BASELINE else reference
            self.watcher.begin(point, f"timing {', '.join(runs)}")
            self._time(found, runs, sets)
        finally:
            for peer in self.peers:
                peer.release()
        self.results.measurements += [found[peer.name] for peer in self.peers]

    def _input_sets(self, model: nn.Module, point: Point) -> list[Inputs]:
        """Inputs to rotate through, as many as touch the footprint; their limit goes to the results."""
        example = self.case.inputs(model, point.batch, point.zipf, self.settings.seed)
        work = count_work(model, example)
        sets = _set_count(work, self.settings.footprint)
        drawn = self.case.inputs(model, point.batch * sets, point.zipf, self.settings.seed)
        limit = limit_of(work, self.results.machines[point.threads], sets=sets)
        self.results.bounds.append(Bound(point, sets, work, limit))
        # Clones, because the allocator aligns them and slices would not be.
        starts = range(0, point.batch * sets, point.batch)
        return [tuple(whole[start : start + point.batch].clone() for whole in drawn) for start in starts]

    def _prepare(
        self,
        peer: Peer,
        model: nn.Module,
        sets: Sequence[Inputs],
        reference: list[object] | None,
        point: Point,
        runs: dict[str, Run],
    ) -> tuple[Measurement, list[object] | None]:
        """Prepares a peer and checks its answers; only right ones get into `runs`."""
        try:
            missing = peer.available()
            if missing is not None:
                return Measurement(point, peer.name, "unavailable", missing), None
            start = time.perf_counter()
            run = peer.prepare(model, sets[0])
            seconds = time.perf_counter() - start
            answers = outputs(run, sets[:_CHECKED_SETS])
        except Exception as error:  # noqa: BLE001 - recorded as the peer's result, the others go on
            return Measurement(point, peer.name, "failed", _why(error)), None
        distance = error_of(answers, answers if reference is None else reference, peer.tolerance)
        if distance.wrong is not None:
            return Measurement(point, peer.name, "wrong", distance.wrong, seconds, distance), None
        runs[peer.name] = run
        return Measurement(point, peer.name, "ok", None, seconds, distance), answers

    def _time(self, found: dict[str, Measurement], runs: dict[str, Run], sets: Sequence[Inputs]) -> None:
        """Times what was prepared; a peer that raises on other inputs is taken out, and the rest timed again."""
        while BASELINE in runs:
            try:
                timed = self._compare(runs, sets)
            except MeasureError as error:
                if error.where not in runs:
                    raise
                del runs[error.where]
                broken = found[error.where]
                found[error.where] = dataclasses.replace(broken, status="failed", reason=_shorten(error.what))
                continue
            for name in runs:
                measured = dataclasses.replace(found[name], timing=timed.timings[name], ratio=timed.ratios[name])
                found[name] = measured
            return
        for name in runs:
            found[name] = dataclasses.replace(found[name], status="failed", reason="eager failed while it was timed")

    def _compare(self, runs: dict[str, Run], sets: Sequence[Inputs]) -> Comparison:
        seconds = self.settings.seconds * len(runs)
        calls = {name: _rotate(run, sets) for name, run in runs.items()}
        return compare(calls, seconds=seconds, baseline=BASELINE, seed=self.settings.seed)


def _rotate(run: Run, sets: Sequence[Inputs]) -> Callable[[], object]:
    """Each call takes the next inputs."""
    following = itertools.cycle(sets).__next__
    return lambda: run(*following())


def _set_count(work: Work, footprint: int) -> int:
    wanted = -(-footprint // max(work.distinct_bytes, 1))
    return max(_MIN_SETS, min(_MAX_SETS, wanted))


def _why(error: Exception) -> str:
    return _shorten(f"{type(error).__name__}: {error}")


def _shorten(text: str, length: int = 200) -> str:
    """One line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
