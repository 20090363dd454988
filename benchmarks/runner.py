"""Runs peers on cases: a new run, or the rest of an interrupted run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from benchmarks.case import Case
from benchmarks.case_run import CaseRun
from benchmarks.environment import environment
from benchmarks.peaks import Peaks, measure_peaks
from benchmarks.peer import Peer
from benchmarks.results import PeerNote, Results
from benchmarks.settings import BASELINE, Settings, Watcher
from recfx.cost.machine import Machine, measure_machine
from recfx.errors import InputError


def run(
    cases: Sequence[Case],
    peers: Sequence[Peer],
    settings: Settings,
    *,
    watcher: Watcher | None = None,
    machine: Callable[[], Machine] = measure_machine,
    peaks: Callable[[], Peaks] = measure_peaks,
    earlier: Results | None = None,
) -> Results:
    """Measures every peer on every case.

    Args:
        cases: The cases.
        peers: The peers; one must have the name "eager".
        settings: Batch sizes, threads, time.
        watcher: Receives the events.
        machine: Measures the machine at the current number of threads.
        peaks: Measures its peaks at lower precisions.
        earlier: Earlier results to continue from. Their points with the same peers are kept. Peers are compared within
            a point, so a point that lacks a peer is measured again completely.

    Raises:
        InputError: No peer has the name "eager", or the earlier results come from another machine, other versions or
            other settings.
    """
    if BASELINE not in {peer.name for peer in peers}:
        raise InputError(
            f"the peers lack {BASELINE!r}, with which all others are compared",
            where="benchmarks",
            hint="name it among the peers",
        )
    watcher = watcher or Watcher()
    packages = {package for peer in peers for package in peer.packages}
    results = Results(environment(packages), {**settings.to_json(), "peers": [peer.name for peer in peers]})
    if earlier is not None:
        _adopt(results, earlier, settings)
    results.peers.update({peer.name: PeerNote(peer.precision, peer.ours) for peer in peers})
    before = torch.get_num_threads()
    try:
        for threads in settings.threads:
            if threads not in results.machines:
                torch.set_num_threads(threads)
                results.machines[threads] = machine()
                results.peaks[threads] = peaks()
        for case in cases:
            CaseRun(case, peers, settings, results, watcher).run()
            gc.collect()
    finally:
        torch.set_num_threads(before)
    return results


def _adopt(results: Results, earlier: Results, settings: Settings) -> None:
    """Adopts earlier measurements."""
    for what, now, then in (
        ("processor", results.environment["cpu"], earlier.environment["cpu"]),
        ("revision", results.environment["revision"], earlier.environment["revision"]),
        ("settings", settings.how(), {key: earlier.settings.get(key) for key in settings.how()}),
        *(
            (f"version of {package}", version, earlier.environment["versions"].get(package, version))
            for package, version in results.environment["versions"].items()
        ),
    ):
        if now != then:
            raise InputError(
                f"cannot continue from results of another {what}: {then} then, {now} now",
                where="benchmarks",
                hint="measure into another file",
            )
    for field in ("cases", "machines", "peaks", "peers"):
        getattr(results, field).update(getattr(earlier, field))
    results.bounds += earlier.bounds
    results.measurements += earlier.measurements
    results.environment["versions"] = {**earlier.environment["versions"], **results.environment["versions"]}
