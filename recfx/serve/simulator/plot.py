"""Diagrams over time as an SVG picture: those of a report are load, latency, and variants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from recfx.serve.simulator.report import Report

COLOURS = ("#4477aa", "#228833", "#ee6677", "#aa3377", "#66ccee", "#ccbb44", "#bbbbbb")
_LEFT, _RIGHT, _TOP, _WIDE, _HIGH, _GAP = 76.0, 190.0, 50.0, 640.0, 150.0, 52.0
_FONT = 11


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        name: Its name in the legend.
        values: One value for each time; NaN where a time has no value.
    """

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
        title: Its title, with the unit.
        lines: Its lines.
        limit: A value to draw as a dashed line, with its name; None without one.
        stacked: Whether each line stands on the one before, as a filled area.
    """

    title: str
    lines: tuple[Line, ...]
    limit: tuple[str, float] | None = None
    stacked: bool = False

    @property
    def top(self) -> float:
        """The largest value, rounded up to one, two or five times a power of ten; at least a billionth."""
        if self.stacked:
            highest = max(
                (sum(line.values[at] for line in self.lines) for at in range(len(self.lines[0].values))), default=0.0
            )
        else:
            shown = [value for line in self.lines for value in line.values if math.isfinite(value)]
            highest = max([*shown, self.limit[1] if self.limit else 0.0], default=0.0)
        if highest <= 0.0:
            return 1.0
        highest = max(highest, 1e-9)
        power = 10.0 ** math.floor(math.log10(highest))
        return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= highest * (1 - 1e-9))


def svg(report: Report, title: str) -> str:
    """The picture of a report as the text of an SVG file.

    Args:
        report: The report.
        title: The title.
    """
    begins = [part.begin for part in report.intervals]
    return picture(panels(report), begins, report.scenario.seconds, title)


def picture(drawn: Sequence[Panel], begins: Sequence[float], end: float, title: str) -> str:
    """Diagrams as the text of an SVG file.

    Args:
        drawn: The diagrams; each line has one value for each interval.
        begins: When each interval begins, in seconds.
        end: When the last one ends.
        title: The title.
    """
    return "\n".join(_written(drawn, begins, end, title)) + "\n"


def panels(report: Report) -> list[Panel]:
    """The diagrams of a report: load, latency, waiting requests and replicas, and variants if there are several."""
    parts = report.intervals

    def line(name: str, values: Sequence[float]) -> Line:
        return Line(name, tuple(values))

    load = Panel(
        "requests per second",
        (
            line("offered", [part.offered for part in parts]),
            line("answered", [part.answered for part in parts]),
            line("rejected", [part.rejected for part in parts]),
            *([line("failed", [part.failed for part in parts])] if any(part.failed for part in parts) else []),
        ),
    )
    latency = Panel(
        "latency of answers in milliseconds",
        (line("p50", [part.p50 * 1e3 for part in parts]), line("p99", [part.p99 * 1e3 for part in parts])),
        limit=("SLA", report.scenario.sla_seconds * 1e3),
    )
    fleet = Panel(
        "fleet",
        (
            line("waiting requests", [part.waiting for part in parts]),
            line("replicas", [part.replicas for part in parts]),
        ),
    )
    if len(report.scenario.variants) == 1:
        return [load, latency, fleet]
    names = [variant.name for variant in report.scenario.variants]
    shares = tuple(line(name, [part.variants[name] for part in parts]) for name in names)
    return [load, latency, fleet, Panel("share of answers by variant", shares, stacked=True)]


def _written(drawn: Sequence[Panel], begins: Sequence[float], end: float, title: str) -> Iterator[str]:
    width = _LEFT + _WIDE + _RIGHT
    height = _TOP + len(drawn) * (_HIGH + _GAP)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="{_FONT}">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>'
    yield f'<text x="{_LEFT:.0f}" y="22" font-size="15">{escape(title)}</text>'
    for at, panel in enumerate(drawn):
        yield from _Diagram(panel, begins, end, _TOP + at * (_HIGH + _GAP)).lines()
    yield "</svg>"


class _Diagram:
    """One panel at its place."""

    def __init__(self, panel: Panel, begins: Sequence[float], end: float, above: float) -> None:
        self.panel, self.begins, self.end, self.above = panel, begins, end, above
        self.first, self.top = begins[0], panel.top

    def _x(self, time: float) -> float:
        return _LEFT + _WIDE * (time - self.first) / (self.end - self.first)

    def _y(self, value: float) -> float:
        return self.above + 14 + (_HIGH - 14) * (1.0 - value / self.top)

    def lines(self) -> Iterator[str]:
        """The elements of the diagram."""
        yield f'<text x="{_LEFT:.0f}" y="{self.above + 6:.0f}" font-weight="bold">{escape(self.panel.title)}</text>'
        yield from self._axes()
        yield from self._areas() if self.panel.stacked else self._curves()
        for at, line in enumerate(self.panel.lines):
            y = self.above + 24 + 16 * at
            yield f'<rect x="{_LEFT + _WIDE + 12:.0f}" y="{y - 9:.0f}" width="10" height="10" fill="{_colour(at)}"/>'
            yield f'<text x="{_LEFT + _WIDE + 28:.0f}" y="{y:.0f}">{escape(line.name)}</text>'

    def _axes(self) -> Iterator[str]:
        for share in (0.0, 0.5, 1.0):
            y = self._y(share * self.top)
            yield f'<path d="M{_LEFT:.0f} {y:.1f}H{_LEFT + _WIDE:.0f}" stroke="#dddddd"/>'
            yield f'<text x="{_LEFT - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{share * self.top:,g}</text>'
        for tick in range(5):
            time = self.first + (self.end - self.first) * tick / 4
            text = f"{time:,g} s" if tick == 4 else f"{time:,g}"
            yield f'<text x="{self._x(time):.1f}" y="{self.above + _HIGH + 16:.0f}" text-anchor="middle">{text}</text>'

    def _curves(self) -> Iterator[str]:
        limit = self.panel.limit
        if limit is not None:
            y = self._y(limit[1])
            yield f'<path d="M{_LEFT:.0f} {y:.1f}H{_LEFT + _WIDE:.0f}" stroke="#333333" stroke-dasharray="6 4"/>'
            yield f'<text x="{_LEFT + _WIDE - 4:.0f}" y="{y - 4:.1f}" text-anchor="end">{escape(limit[0])}</text>'
        for at, line in enumerate(self.panel.lines):
            path = self._path(line.values)
            if path:
                yield f'<path d="{path}" fill="none" stroke="{_colour(at)}" stroke-width="1.6"/>'

    def _path(self, values: Sequence[float]) -> str:
        """Steps from interval to interval; a value that is NaN interrupts the line."""
        ends = [*self.begins[1:], self.end]
        found, drawing = [], False
        for begin, end, value in zip(self.begins, ends, values, strict=True):
            if math.isfinite(value):
                found.append(f"{'L' if drawing else 'M'}{self._x(begin):.1f} {self._y(value):.1f}H{self._x(end):.1f}")
            drawing = math.isfinite(value)
        return "".join(found)

    def _areas(self) -> Iterator[str]:
        ends = [*self.begins[1:], self.end]
        below = [0.0] * len(self.begins)
        for at, line in enumerate(self.panel.lines):
            for place, (begin, end, value) in enumerate(zip(self.begins, ends, line.values, strict=True)):
                if value > 0.0:
                    top = self._y(below[place] + value)
                    x, width, height = self._x(begin), self._x(end) - self._x(begin), self._y(below[place]) - top
                    yield (
                        f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.2f}" height="{height:.1f}" fill="{_colour(at)}"/>'
                    )
                below[place] += value


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]
