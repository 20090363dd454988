"""New rows of tables while a model is called: rows per second of one core, and what requests notice of it.

Requests and updates run in two threads of one process. Spans with and without updates alternate, so that both meet the same other load.
Requests during which the system took the processor away from their thread (involuntary context switches) are left out: other programs cause
them. Waits for the other thread, such as for the interpreter's lock, count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import recfx
from benchmarks.markdown import markdown
from recfx.errors import InputError

#: Precision of a case -> options of `recfx.optimize`.
FORMATS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8"},
}
_SPAN = 0.5  # seconds
_COLUMNS = 64


class Ranker(nn.Module):
    """Two tables and a small MLP.

    Args:
        rows: Rows of each table.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(rows, _COLUMNS), nn.Embedding(rows, _COLUMNS)
        self.mlp = nn.Sequential(nn.Linear(2 * _COLUMNS, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.mlp(torch.cat([self.users(user), self.items(item)], 1))
        return found


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        rows: Rows of each table.
        update: Rows of an update.
        rate: Rows per second of updates while requests run, at most.
        batch: Rows of a request.
        seconds: Time for requests, half of it with updates.
    """

    rows: int = 500_000
    update: int = 10_000
    rate: float = 1e6
    batch: int = 100
    seconds: float = 10.0


@dataclasses.dataclass(frozen=True)
class Found:
    """The figures of one format.

    Attributes:
        format: Of the tables.
        journal: Whether updates were kept in a journal.
        alone: Rows per second of processor time, without requests.
        reached: Rows per second while requests ran.
        left_out: The share of requests from which the system took the processor away.
        quiet: p50 and p99 of the other requests without updates, in seconds.
        updated: The same with updates.
    """

    format: str
    journal: bool
    alone: float
    reached: float
    left_out: float
    quiet: tuple[float, float]
    updated: tuple[float, float]


def measure(
    formats: Sequence[str],
    case: Case,
    tell: Callable[[str], None] = lambda line: None,
    *,
    journals: Sequence[bool] = (False, True),
) -> list[Found]:
    """Measures every format with and without a journal.

    Args:
        formats: Keys of FORMATS.
        case: What is measured.
        tell: Receives a line for each result.
        journals: Whether updates are kept in a journal, for each measurement of a format.

    Raises:
        InputError: A format is unknown.
    """
    if unknown := set(formats) - FORMATS.keys():
        raise InputError(f"unknown format {min(unknown)!r}", where="live-rows", hint=f"use {', '.join(FORMATS)}")
    found = []
    for name in formats:
        for journal in journals:
            with _model(name, case, journal) as fast:
                found.append(_found(name, case, fast, journal))
            tell(_line(found[-1]))
    return found


@contextlib.contextmanager
def _model(name: str, case: Case, journal: bool) -> Iterator[recfx.CompiledModel]:
    torch.manual_seed(0)
    model = Ranker(case.rows).eval()
    example = (torch.arange(4), torch.arange(4))
    fast = recfx.optimize(model, example_inputs=example, target="native", measure=False, **FORMATS[name])
    del model
    with tempfile.TemporaryDirectory() as folder:
        if journal:
            path = Path(folder) / "model.recfx"
            fast.save(path)
            fast = recfx.load(path)
            fast.keep_updates(path)
        fast.prepare_updates()
        yield fast


class _Updates:
    """Updates of drawn rows of one table."""

    def __init__(self, fast: recfx.CompiledModel, case: Case) -> None:
        self._fast, self._case = fast, case
        self._ids = [torch.randperm(case.rows)[: case.update] for _ in range(8)]
        self._rows = torch.randn(case.update, _COLUMNS)
        self.count = 0

    def __call__(self) -> None:
        self._fast.update_tables({"items.weight": (self._ids[self.count % len(self._ids)], self._rows)})
        self.count += 1


def _found(name: str, case: Case, fast: recfx.CompiledModel, journal: bool) -> Found:
    update = _Updates(fast, case)
    for _ in range(4):
        update()
    begun, first = time.process_time(), update.count
    end = time.monotonic() + min(1.0, case.seconds)
    while time.monotonic() < end:
        update()
    alone = (update.count - first) * case.update / (time.process_time() - begun)
    active, ended = threading.Event(), threading.Event()
    writer = threading.Thread(target=_write, args=(update, case, active, ended))
    writer.start()
    times: dict[bool, list[float]] = {False: [], True: []}
    counts = requests = 0
    try:
        for span in range(max(2, round(case.seconds / _SPAN))):
            updated = span % 2 == 1
            (active.set if updated else active.clear)()
            before = update.count
            count, undisturbed = _requests(fast, case)
            times[updated] += undisturbed
            requests += count
            counts += (update.count - before) if updated else 0
    finally:
        ended.set()
        active.set()
        writer.join()
    reached = counts * case.update / (max(2, round(case.seconds / _SPAN)) // 2 * _SPAN)
    left_out = 1 - (len(times[False]) + len(times[True])) / requests
    return Found(name, journal, alone, reached, left_out, _quantiles(times[False]), _quantiles(times[True]))


def _write(update: _Updates, case: Case, active: threading.Event, ended: threading.Event) -> None:
    """Sends updates at the rate of the case while `active` is set."""
    due = time.monotonic()
    while active.wait() and not ended.is_set():
        now = time.monotonic()
        if now < due:  # one sleep: every look at the clock would take the interpreter's lock
            time.sleep(due - now)
            continue
        update()
        due = max(due, now - 0.05) + case.update / case.rate


def _requests(fast: recfx.CompiledModel, case: Case) -> tuple[int, list[float]]:
    """The number of requests in one span, and the times of those that were not interrupted."""
    drawn = [
        (torch.randint(0, case.rows, (case.batch,)), torch.randint(0, case.rows, (case.batch,))) for _ in range(64)
    ]
    found: list[float] = []
    count = 0
    end = time.perf_counter() + _SPAN
    while True:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        now = time.perf_counter()
        if now >= end:
            return count, found
        fast(*drawn[count % len(drawn)])
        seconds = time.perf_counter() - now
        if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before:
            found.append(seconds)
        count += 1


def _quantiles(times: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]


def _line(found: Found) -> str:
    return f"{found.format}{', journal' * found.journal}: {found.alone / 1e6:.2f} M rows/s"


def report(found: Sequence[Found]) -> str:
    """The figures as a table."""
    head = [
        "format",
        "journal",
        "M rows/s of a core",
        "M rows/s meanwhile",
        "left out",
        "p50, µs",
        "p99, µs",
        "p50 with updates",
        "p99 with updates",
        "p99 ratio",
    ]
    rows = [
        [
            each.format,
            "yes" if each.journal else "no",
            f"{each.alone / 1e6:.2f}",
            f"{each.reached / 1e6:.2f}",
            f"{each.left_out:.1%}",
            *(f"{value * 1e6:.0f}" for value in (*each.quiet, *each.updated)),
            f"{each.updated[1] / each.quiet[1]:.2f}",
        ]
        for each in found
    ]
    return markdown(head, rows, set(range(2, len(head))))
