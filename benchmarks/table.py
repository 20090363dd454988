"""Results as Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.accuracy import Error
from benchmarks.markdown import markdown
from benchmarks.results import Bound, Measurement, Point, Results
from benchmarks.summary import against_best, means, request_mode

_HEAD = ("batch", "peer", "p50 µs", "p99 µs", "ratio to eager [95 %]", "× limit", "max error", "prepare s", "note")
_RIGHT = {0, 2, 3, 5, 6, 7}
_P99_SAMPLES = 100
_DOUBTFUL = 0.95


def render(results: Results) -> str:
    """The whole run: the machine, one table for each case, thread count and id distribution, and the geometric
    means."""
    parts = [_preamble(results)]
    bounds = {bound.point: bound for bound in results.bounds}
    groups: defaultdict[tuple[str, int, float | None], list[Measurement]] = defaultdict(list)
    for measurement in results.measurements:
        point = measurement.point
        groups[point.case, point.threads, point.zipf].append(measurement)
    for measurements in groups.values():
        parts.append(_section(results, measurements, bounds))
    parts += [part for part in (means(results), against_best(results), request_mode(results)) if part]
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
            f"{machine.matmul / 1e9:.0f} GFLOP/s in torch.mm"
            + "".join(f", {rate / 1e9:.0f} Gop/s in {kind}" for kind, rate in results.peaks.get(threads, {}).items())
        )
    return "\n".join(lines)


def _section(results: Results, measurements: Sequence[Measurement], bounds: dict[Point, Bound]) -> str:
    point = measurements[0].point
    lines = [f"### {point.case}, {_threads(point.threads)}, {point.ids()}", "", results.cases[point.case]]
    lines += [
        _limit_line(bounds[p]) for p in sorted({m.point for m in measurements}, key=lambda p: p.batch) if p in bounds
    ]
    absent = _absent(measurements)
    lines += [f"- {peer}: not available: {reason}" for peer, reason in absent.items()]
    ordered = sorted((m for m in measurements if m.peer not in absent), key=lambda m: m.point.batch)
    rows = [_row(measurement, bounds.get(measurement.point), results) for measurement in ordered]
    return "\n".join([*lines, "", markdown(_HEAD, rows, _RIGHT)])


def _absent(measurements: Sequence[Measurement]) -> dict[str, str]:
    """Peer -> reason, for peers that are not available at any batch size: they get one line instead of a row for each
    size."""
    reasons = {m.peer: m.reason or "" for m in measurements if m.status == "unavailable"}
    return {
        peer: why
        for peer, why in reasons.items()
        if all(m.status == "unavailable" for m in measurements if m.peer == peer)
    }


def _limit_line(bound: Bound) -> str:
    work, limit = bound.work, bound.limit
    others = "".join(
        f"; {kind} {_micro(other.seconds)} µs"
        for kind, other in bound.limits.items()
        if kind != "fp32" and other.seconds
    )
    saved = work.flops - work.needed_flops
    equal = f", {saved / work.flops:.1%} of it not needed in request mode" if saved else ""
    return (
        f"- batch {bound.point.batch}: limit {_micro(limit.seconds)} µs{others} "
        f"(weights {work.weight_bytes / 1e6:.2f} MB in {_micro(limit.weights)} µs, "
        f"{work.lookups:,} rows of {work.lookup_bytes / 1e3:,.1f} kB in {_micro(limit.lookups)} µs, "
        f"{work.flops / 1e6:,.2f} MFLOP{equal} in {_micro(limit.arithmetic)} µs); {bound.sets} inputs in turn"
    )


def _row(measurement: Measurement, bound: Bound | None, results: Results) -> list[str]:
    timing, error = measurement.timing, measurement.error
    note = results.peers.get(measurement.peer)
    limit = bound.limits[note.precision if note else "fp32"].seconds if bound else 0.0
    status = {"ok": "", "wrong": "WRONG: ", "failed": "failed: ", "unavailable": "not available: "}[measurement.status]
    doubt = "~" if timing is not None and timing.samples < _P99_SAMPLES else ""
    return [
        str(measurement.point.batch),
        measurement.peer,
        _micro(timing.median) if timing else "",
        doubt + _micro(timing.p99) if timing else "",
        str(measurement.ratio) if measurement.ratio else "",
        _times(timing.median / limit) if timing and limit else "",
        _error(error),
        "" if measurement.prepare_seconds is None else f"{measurement.prepare_seconds:.2f}",
        status + (measurement.reason or ""),
    ]


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def _times(ratio: float) -> str:
    """A median below the limit means that the measurement of the machine was disturbed."""
    return f"{ratio:.2f}" + ("?" if ratio < _DOUBTFUL else "")


def _error(error: Error | None) -> str:
    """The absolute error, and the relative error in parentheses."""
    if error is None or error.absolute is None:
        return ""
    return f"{error.absolute:.1e}" + ("" if error.relative is None else f" ({error.relative:.1e})")
