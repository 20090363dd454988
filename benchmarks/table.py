"""Results as Markdown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from benchmarks.accuracy import Error
from benchmarks.results import Bound, Measurement, Point, Results

_HEAD = ("batch", "peer", "p50 µs", "p99 µs", "ratio to eager [95 %]", "× limit", "max error", "prepare s", "note")
_RIGHT = {0, 2, 3, 5, 6, 7}
_P99_SAMPLES = 100


def render(results: Results) -> str:
    """The whole run: where, one table for each case, thread count and id distribution, and the geometric means."""
    parts = [_preamble(results)]
    bounds = {bound.point: bound for bound in results.bounds}
    groups: defaultdict[tuple[str, int, float | None], list[Measurement]] = defaultdict(list)
    for measurement in results.measurements:
        point = measurement.point
        groups[point.case, point.threads, point.zipf].append(measurement)
    for measurements in groups.values():
        parts.append(_section(results, measurements, bounds))
    means = _means(results.measurements)
    if means:
        parts.append(means)
    return "\n\n".join(parts) + "\n"


def _preamble(results: Results) -> str:
    place = results.environment
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items() if version)
    lines = [
        f"{place['date']}, revision {place['revision'] or 'unknown'}; {place['cpu']}, {place['cores']} cores "
        f"({', '.join(place['flags'])}); Python {place['python']}, {versions}",
    ]
    for threads, machine in sorted(results.machines.items()):
        big = 256 * 2**20
        lines.append(
            f"{_threads(threads)}: reads {machine.stream_rate(big) / 1e9:.1f} GB/s from memory, "
            f"{machine.gather_rate(big, 256) / 1e6:.1f} M random rows of 256 bytes/s, "
            f"{machine.matmul / 1e9:.0f} GFLOP/s in fp32"
        )
    return "\n".join(lines)


def _section(results: Results, measurements: Sequence[Measurement], bounds: dict[Point, Bound]) -> str:
    point = measurements[0].point
    lines = [f"### {point.case}, {_threads(point.threads)}, {point.ids()}", "", results.cases[point.case]]
    lines += [_limit_line(bounds[p]) for p in _unique(m.point for m in measurements) if p in bounds]
    rows = [_row(measurement, bounds.get(measurement.point)) for measurement in measurements]
    return "\n".join([*lines, "", markdown(_HEAD, rows, _RIGHT)])


def _limit_line(bound: Bound) -> str:
    work, limit = bound.work, bound.limit
    return (
        f"- batch {bound.point.batch}: limit {_micro(limit.seconds)} µs "
        f"(weights {work.weight_bytes / 1e6:.2f} MB in {_micro(limit.weights)} µs, "
        f"{work.lookups:,} rows of {work.lookup_bytes / 1e3:,.1f} kB in {_micro(limit.lookups)} µs, "
        f"{work.flops / 1e6:,.2f} MFLOP in {_micro(limit.arithmetic)} µs); {bound.sets} inputs in turn"
    )


def _row(measurement: Measurement, bound: Bound | None) -> list[str]:
    timing, error = measurement.timing, measurement.error
    note = {"ok": "", "wrong": "WRONG: ", "failed": "failed: ", "unavailable": "not available: "}[measurement.status]
    doubt = "~" if timing is not None and timing.samples < _P99_SAMPLES else ""
    return [
        str(measurement.point.batch),
        measurement.peer,
        _micro(timing.median) if timing else "",
        doubt + _micro(timing.p99) if timing else "",
        str(measurement.ratio) if measurement.ratio else "",
        f"{timing.median / bound.limit.seconds:.2f}" if timing and bound and bound.limit.seconds else "",
        _error(error),
        "" if measurement.prepare_seconds is None else f"{measurement.prepare_seconds:.2f}",
        note + (measurement.reason or ""),
    ]


def _means(measurements: Iterable[Measurement]) -> str:
    """Geometric means of the ratios over the cases, for each peer, thread count and batch size."""
    ratios: defaultdict[tuple[str, int], defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for m in measurements:
        if m.ratio is not None and m.peer != "eager":
            ratios[m.peer, m.point.threads][m.point.batch].append(m.ratio.value)
    if not ratios:
        return ""
    batches = sorted({batch for by_batch in ratios.values() for batch in by_batch})
    rows = [
        [peer, str(threads), *(_mean(by_batch.get(batch, [])) for batch in batches)]
        for (peer, threads), by_batch in ratios.items()
    ]
    head = ["peer", "threads", *(f"batch {batch}" for batch in batches)]
    right = set(range(1, len(head)))
    return "### Geometric mean of the ratios to eager (number of cases)\n\n" + markdown(head, rows, right)


def _mean(ratios: Sequence[float]) -> str:
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f} ({len(ratios)})" if ratios else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """A Markdown table whose columns line up as plain text too.

    Args:
        head: Titles.
        rows: Cells.
        right: Columns to align to the right.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + (":" if i in right else "-") for i, w in enumerate(widths))
    return "\n".join([line(cells[0]), f"|{rule}|", *(line(row) for row in cells[1:])])


def _unique(points: Iterable[Point]) -> list[Point]:
    return list(dict.fromkeys(points))


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def _error(error: Error | None) -> str:
    """Absolute, and relative in parentheses."""
    if error is None or error.absolute is None:
        return ""
    return f"{error.absolute:.1e}" + ("" if error.relative is None else f" ({error.relative:.1e})")
