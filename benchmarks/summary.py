"""The summary of a run: geometric means over the cases, recfx against the best of the others, and request mode."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from benchmarks.markdown import markdown
from benchmarks.results import Measurement, Point, Results
from benchmarks.settings import BASELINE

_HOISTED, _WRITTEN = "recfx request", "recfx as written"

#: Peer, threads -> batch -> ratios of its cases.
_Ratios = dict[tuple[str, int], dict[int, list[float]]]


def means(results: Results) -> str:
    """Geometric means of the ratios to eager, for each peer, thread count and batch size."""
    timed = [m for m in results.measurements if m.peer != BASELINE]
    return _table("Geometric mean of the ratios to eager (number of cases)", _gather(timed, _to_eager))


def against_best(results: Results) -> str:
    """Geometric means of recfx over the best other peer at each point: the best in fp32, and the best of any
    precision."""
    parts = []
    for title, kinds in (("fp32 peer", {"fp32"}), ("peer of any precision", None)):
        best = _best(results, kinds)
        ours = [m for m in results.measurements if _is_ours(results, m.peer)]
        ratios = _gather(ours, lambda m, best=best: _over(m, best.get(m.point)))  # type: ignore[misc]
        parts.append(_table(f"Geometric mean of the ratios to the best other {title} (number of points)", ratios))
    return "\n\n".join(part for part in parts if part)


def request_mode(results: Results) -> str:
    """The saved arithmetic and the saved time of compiled models in request mode."""
    plain = {(m.point, m.peer): m for m in results.measurements}
    works = {bound.point: bound.work for bound in results.bounds}
    rows = []
    for m in results.measurements:
        if not m.peer.startswith(_HOISTED) or m.timing is None:
            continue
        others = ("recfx" + m.peer.removeprefix(_HOISTED), _WRITTEN if m.peer == _HOISTED else "")
        unhoisted, written = (_to(m, plain.get((m.point, other))) for other in others)
        work = works[m.point]
        saved = f"{1 - work.needed_flops / work.flops:.1%}" if work.flops else ""
        eager = f"{m.ratio.value:.3f}" if m.ratio else ""
        rows.append(
            [m.point.case, str(m.point.threads), f"1 x {m.point.batch}", m.peer, saved, unhoisted, written, eager]
        )
    head = (
        "case",
        "threads",
        "candidates",
        "peer",
        "arithmetic that can be saved",
        "time / unhoisted",
        "time / unhoisted, products as written",
        "time / eager",
    )
    return "### Request mode\n\n" + markdown(head, rows, {1, 2, 4, 5, 6, 7}) if rows else ""


def _to(measurement: Measurement, other: Measurement | None) -> str:
    """The ratio of two times; empty if either is missing."""
    if measurement.timing is None or other is None or other.timing is None:
        return ""
    return f"{measurement.timing.median / other.timing.median:.3f}"


def _gather(measurements: Iterable[Measurement], ratio: Callable[[Measurement], float | None]) -> _Ratios:
    ratios: _Ratios = defaultdict(lambda: defaultdict(list))
    for m in measurements:
        value = ratio(m)
        if value is not None:
            ratios[m.peer, m.point.threads][m.point.batch].append(value)
    return ratios


def _to_eager(measurement: Measurement) -> float | None:
    return measurement.ratio.value if measurement.ratio is not None else None


def _over(measurement: Measurement, best: float | None) -> float | None:
    return measurement.timing.median / best if measurement.timing is not None and best is not None else None


def _best(results: Results, kinds: set[str] | None) -> dict[Point, float]:
    """The median of the fastest other peer at each point; eager is not counted."""
    best: dict[Point, float] = {}
    for m in results.measurements:
        note = results.peers.get(m.peer)
        if m.timing is None or note is None or note.ours or m.peer == BASELINE:
            continue
        if kinds is None or note.precision in kinds:
            best[m.point] = min(m.timing.median, best.get(m.point, math.inf))
    return best


def _is_ours(results: Results, peer: str) -> bool:
    note = results.peers.get(peer)
    return note is not None and note.ours


def _table(title: str, ratios: _Ratios) -> str:
    if not ratios:
        return ""
    batches = sorted({batch for by_batch in ratios.values() for batch in by_batch})
    rows = [
        [peer, str(threads), *(_mean(by_batch.get(batch, [])) for batch in batches)]
        for (peer, threads), by_batch in ratios.items()
    ]
    head = ["peer", "threads", *(f"batch {batch}" for batch in batches)]
    return f"### {title}\n\n" + markdown(head, rows, set(range(1, len(head))))


def _mean(ratios: Sequence[float]) -> str:
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f} ({len(ratios)})" if ratios else ""
