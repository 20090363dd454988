"""Runs one case at all its points: builds the model, prepares peers, compares them with eager, and times them in
turns."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks.accuracy import error_of, outputs
from benchmarks.budget import OverBudget, budget
from benchmarks.case import Case, available_gigabytes
from benchmarks.job import Job, Store
from benchmarks.limits import PRECISIONS, Work, count_work, limit_of
from benchmarks.peer import Peer, Run
from benchmarks.results import Bound, Measurement, Point, Results
from benchmarks.settings import BASELINE, Settings, Watcher
from recfx.cost.comparison import Comparison
from recfx.cost.timing import compare
from recfx.errors import MeasureError

_CHECKED_SETS = 16
_MIN_SETS, _MAX_SETS = 4, 4096
_MAX_INPUT_BYTES = 256 * 2**20

Call = Callable[[], object]


class CaseRun:
    """One case at all its points.

    Args:
        case: The case.
        peers: The peers.
        settings: Batch sizes, threads, time.
        results: Receives the results; points that it already has for the same peers are skipped.
        watcher: Receives the events.
    """

    def __init__(
        self, case: Case, peers: Sequence[Peer], settings: Settings, results: Results, watcher: Watcher
    ) -> None:
        self.case = case
        self.peers = peers
        self.settings = settings
        self.results = results
        self.watcher = watcher
        self.given_up: dict[tuple[str, int], str] = {}
        self.results.cases[case.name] = case.summary

    def run(self) -> None:
        """Builds the model and runs all points; an error becomes a result."""
        points = []
        for point in self.settings.points(self.case):
            if self.results.complete(point, [peer.name for peer in self.peers]):
                self.watcher.done(point)
            else:
                self.results.drop(point)
                points.append(point)
        if not points:
            return
        self.watcher.begin(points[0], "building the model")
        try:
            reason = self.case.unfit()
            model = None if reason else self.case.model()
        except Exception as error:  # noqa: BLE001 - recorded as the case's result; the other cases continue
            model, reason = None, _why(error)
        with Store() as store:
            for point in points:
                why = reason or self.case.too_large(point.batch)
                if model is None or why:
                    self.results.measurements.append(Measurement(point, BASELINE, "failed", why))
                else:
                    torch.set_num_threads(point.threads)
                    self._measure(model, point, store)
                self.watcher.done(point)
                self.watcher.changed(self.results)

    def _measure(self, model: nn.Module, point: Point, store: Store) -> None:
        try:
            job = self._job(model, point, store)
        except Exception as error:  # noqa: BLE001 - recorded as the point's result; the other points continue
            self.results.measurements.append(Measurement(point, BASELINE, "failed", _why(error)))
            return
        found: dict[str, Measurement] = {}
        calls: dict[str, Call] = {}
        reference: list[object] | None = None
        try:
            for peer in sorted(self.peers, key=lambda peer: peer.name != BASELINE):
                if reference is None and peer.name != BASELINE:
                    found[peer.name] = Measurement(
                        point, peer.name, "failed", "eager failed: the answers cannot be compared"
                    )
                    continue
                self.watcher.begin(point, f"preparing {peer.name}")
                found[peer.name], answers = self._prepare(peer, job, reference, point, calls)
                reference = answers if peer.name == BASELINE else reference
            self.watcher.begin(point, f"timing {', '.join(calls)}")
            self._time(found, calls)
        finally:
            for peer in self.peers:
                peer.release()
        self.results.measurements += [found[peer.name] for peer in self.peers]

    def _job(self, model: nn.Module, point: Point, store: Store) -> Job:
        """Returns as many inputs as read the footprint together; adds their physical limit to the results."""
        (example,) = self.case.sets(model, point.batch, 1, point.zipf, self.settings.seed)
        request = self.case.request_positions(model)
        split = self.case.split(model, point.batch) if self.case.split else 0
        work = count_work(model, example, request=request, split=split)
        count = _set_count(work, self.settings.footprint, sum(value.nbytes for value in example))
        machine, peaks = self.results.machines[point.threads], self.results.peaks[point.threads]
        limits = {kind: limit_of(work, machine, peaks, precision=kind, sets=count) for kind in PRECISIONS}
        self.results.bounds.append(Bound(point, count, work, limits))
        return Job(
            model,
            self.case.sets(model, point.batch, count, point.zipf, self.settings.seed),
            lambda rows, seed: self.case.inputs(model, rows, point.zipf, self.settings.seed + seed),
            store,
            point.threads,
            request,
        )

    def _prepare(
        self, peer: Peer, job: Job, reference: list[object] | None, point: Point, calls: dict[str, Call]
    ) -> tuple[Measurement, list[object] | None]:
        """Prepares a peer and checks its answers; adds it to `calls` if they are right."""
        result = partial(Measurement, point, peer.name)
        try:
            missing = peer.available() or peer.declines(job)
            if missing is not None:
                return result("unavailable", missing), None
            refused = self.given_up.get((peer.name, point.threads)) or self._no_room(peer)
            if refused is not None:
                return result("failed", refused), None
            job.store.reused = 0.0
            start = time.perf_counter()
            with budget(self.settings.budget):
                run = peer.prepare(job)
            seconds = time.perf_counter() - start + job.store.reused
            sets = [peer.convert(job, inputs) for inputs in job.sets]
            answers = outputs(run, sets[:_CHECKED_SETS])
        except OverBudget as error:
            self.given_up[peer.name, point.threads] = f"given up: at batch {point.batch} it {error}"
            return result("failed", str(error)), None
        except Exception as error:  # noqa: BLE001 - recorded as the peer's result; the others continue
            return result("failed", _why(error)), None
        distance = error_of(answers, answers if reference is None else reference, peer.tolerance)
        if distance.wrong is not None:
            return result("wrong", distance.wrong, seconds, distance), None
        calls[peer.name] = _rotate(run, sets)
        return result("ok", None, seconds, distance), answers

    def _no_room(self, peer: Peer) -> str | None:
        """Why the peer's copies of the tables do not fit into memory, or None."""
        free, needed = available_gigabytes(), peer.copies * self.case.gigabytes
        if free is None or needed <= free:
            return None
        return f"makes {peer.copies:g} copies of the tables, {needed:.1f} GB, and {free:.1f} GB are free"

    def _time(self, found: dict[str, Measurement], calls: dict[str, Call]) -> None:
        """Times the prepared peers. If a peer raises on other inputs, it is left out, and the others are timed
        again."""
        while BASELINE in calls:
            try:
                timed = self._compare(calls)
            except MeasureError as error:
                if error.where not in calls:
                    raise
                del calls[error.where]
                broken = found[error.where]
                found[error.where] = dataclasses.replace(broken, status="failed", reason=_shorten(error.what))
                continue
            for name in calls:
                measured = dataclasses.replace(found[name], timing=timed.timings[name], ratio=timed.ratios[name])
                found[name] = measured
            return
        for name in calls:
            found[name] = dataclasses.replace(found[name], status="failed", reason="eager failed while it was timed")

    def _compare(self, calls: dict[str, Call]) -> Comparison:
        seconds = self.settings.seconds * len(calls)
        rounds = self.settings.rounds
        return compare(calls, seconds=seconds, min_rounds=rounds, baseline=BASELINE, seed=self.settings.seed)


def _rotate(run: Run, sets: Sequence[tuple[object, ...]]) -> Call:
    """Returns a function whose every call uses the next inputs."""
    following = itertools.cycle(sets).__next__
    return lambda: run(*following())


def _set_count(work: Work, footprint: int, input_bytes: int) -> int:
    wanted = -(-footprint // max(work.distinct_bytes, 1))
    room = _MAX_INPUT_BYTES // max(input_bytes, 1)
    return max(_MIN_SETS, min(_MAX_SETS, wanted, room))


def _why(error: Exception) -> str:
    return _shorten(f"{type(error).__name__}: {error}")


def _shorten(text: str, length: int = 200) -> str:
    """The text in one line, cut to `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
