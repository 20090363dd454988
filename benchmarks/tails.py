"""Slow calls: percentiles of single calls of a small DLRM, compiled and eager, under the conditions of a server.

`python -m benchmarks tails`. Each condition is measured at each batch size and number of threads: alone; between
torch's own parallel operators; with one other busy process; with four threads that call at the same time. Eager and
compiled runs take turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import recfx
from benchmarks.environment import environment
from benchmarks.markdown import markdown
from recfx.errors import MeasureError
from recfx.zoo import DLRM

CONDITIONS = ("alone", "interleaved", "busy", "callers")
CALLERS = 4
_TURNS = 4
_WARM_UP = 20
_QUANTILES = (50, 99, 99.9)

Microseconds = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; microseconds.

    Attributes:
        condition: One of `CONDITIONS`.
        threads: Number of torch's threads.
        batch: Rows of a call.
        eager: 50th, 99th and 99.9th percentile of eager's calls.
        compiled: The same percentiles of the compiled model's calls.
        calls: Number of timed calls, of eager and of the compiled model.
    """

    condition: str
    threads: int
    batch: int
    eager: tuple[float, ...]
    compiled: tuple[float, ...]
    calls: tuple[int, int]

    @property
    def missed(self) -> str:
        """The goals that are not met: p99 at most eager's and 3 x its own p50, p99.9 at most eager's."""
        own, p99, worst = self.compiled
        checks = {"p99": p99 <= self.eager[1], "3 x p50": p99 <= 3 * own, "p99.9": worst <= self.eager[2]}
        return ", ".join(name for name, met in checks.items() if not met)


def measure(threads: Sequence[int], batches: Sequence[int], conditions: Sequence[str], seconds: float) -> str:
    """Measures and returns the table, in Markdown.

    Args:
        threads: Numbers of torch's threads, with one part of the table for each.
        batches: Batch sizes.
        conditions: Some of `CONDITIONS`.
        seconds: Time for eager, and the same time for the compiled model, at each point.

    Raises:
        MeasureError: An unknown condition.
    """
    if unknown := set(conditions) - set(CONDITIONS):
        raise MeasureError(f"unknown condition {', '.join(sorted(unknown))}", hint=f"one of {', '.join(CONDITIONS)}")
    rows = []
    for count in threads:
        torch.set_num_threads(count)
        model = _small_dlrm()
        compiled = recfx.optimize(model, example_inputs=model.example_inputs(64), measure=False)
        for condition in conditions:
            for batch in batches:
                rows.append(_row(model, compiled, condition, count, batch, seconds))
    return _table(rows)


def _small_dlrm() -> Any:
    torch.manual_seed(0)
    return DLRM([10_000] * 26, 13, 16, bottom=(64,), top=(400, 400)).eval()


def _row(model: Any, compiled: Any, condition: str, threads: int, batch: int, seconds: float) -> Row:
    inputs = model.example_inputs(batch)
    times: dict[str, list[Microseconds]] = {"eager": [], "compiled": []}
    with _busy_process() if condition == "busy" else contextlib.nullcontext():
        for _ in range(_TURNS):
            for name, called in (("eager", model), ("compiled", compiled)):
                times[name].append(_turn(called, inputs, condition, threads, seconds / _TURNS))
    eager, own = (np.concatenate(times[name]) for name in ("eager", "compiled"))
    summary = [tuple(float(q) for q in np.percentile(t, _QUANTILES)) for t in (eager, own)]
    return Row(condition, threads, batch, summary[0], summary[1], (len(eager), len(own)))


def _turn(called: Callable[..., Any], inputs: Any, condition: str, threads: int, seconds: float) -> Microseconds:
    if condition != "callers":
        between = _parallel_operators() if condition == "interleaved" else None
        return _calls(called, inputs, between, seconds)
    found: list[Microseconds] = []

    def caller() -> None:
        torch.set_num_threads(threads)
        found.append(_calls(called, inputs, None, seconds))

    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    return np.concatenate(found)


def _calls(
    called: Callable[..., Any], inputs: Any, between: Callable[[], object] | None, seconds: float
) -> Microseconds:
    """Microseconds of single calls; at least one call is timed."""
    clock = time.perf_counter_ns
    times: list[int] = []
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            called(*inputs)
        end = clock() + int(seconds * 1e9)
        while not times or clock() < end:
            if between is not None:
                between()
            start = clock()
            called(*inputs)
            times.append(clock() - start)
    return np.asarray(times) / 1e3


def _parallel_operators() -> Callable[[], object]:
    """The state after a preprocessing step or a second model: torch's threads, awake and spinning."""
    left, right, vector = torch.rand(128, 512), torch.rand(512, 512), torch.rand(300_000)
    return lambda: (vector + 1, left @ right)


@contextlib.contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _table(rows: Sequence[Row]) -> str:
    place = environment()
    times = [f"{who} p{q}" for who in ("eager", "recfx") for q in _QUANTILES]
    cells = [
        [r.condition, str(r.threads), str(r.batch), *(f"{t:,.0f}" for t in (*r.eager, *r.compiled)), r.missed]
        for r in rows
    ]
    fewest = min(min(r.calls) for r in rows)
    return (
        f"{place['date']}, revision {place['revision'] or 'unknown'}; {place['cpu']}, {place['cores']} cores; "
        f"torch {place['versions']['torch']}; microseconds of single calls, {fewest:,} calls of each at least\n\n"
        + markdown(["condition", "threads", "batch", *times, "goal not met"], cells, set(range(1, 9)))
    )
