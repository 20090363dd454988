"""A scatter plot as plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 50, 60
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_TICKS = 5


class Point(NamedTuple):
    """A point.

    Attributes:
        x: Positive; drawn on a logarithmic scale.
        y: Its height.
        label: The tooltip.
        group: Points of one group share a colour.
    """

    x: float
    y: float
    label: str
    group: str


class _Scale(NamedTuple):
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scatter(points: Sequence[Point], x: str, y: str, title: str) -> str:
    """Draws points over a logarithmic x-axis; without points, only the axes' names.

    Args:
        points: The points.
        x: Name of the x-axis.
        y: Name of the y-axis.
        title: The title above the plot.

    Returns:
        An SVG document.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, 22, title, "middle"),
        _text(_WIDTH / 2, _HEIGHT - 14, x, "middle"),
        f'<text transform="translate(16 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}" '
        'fill="none" stroke="#888"/>',
    ]
    if points:
        parts += _drawn(points)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(points: Sequence[Point]) -> list[str]:
    across = _scale([math.log10(point.x) for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _scale([point.y for point in points], _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for tick in range(_TICKS + 1):
        value = up.low + (up.high - up.low) * tick / _TICKS
        parts.append(_text(_LEFT - 6, up.at(value) + 4, f"{value:.3f}", "end"))
    for power in range(math.floor(across.low), math.ceil(across.high) + 1):
        for factor in (1, 2, 5):
            place = power + math.log10(factor)
            if across.low <= place <= across.high:
                parts.append(_text(across.at(place), _HEIGHT - _BOTTOM + 18, f"{factor * 10.0**power:,.0f}", "middle"))
    groups = sorted({point.group for point in points})
    colors = {group: _COLORS[index % len(_COLORS)] for index, group in enumerate(groups)}
    for point in points:
        parts.append(
            f'<circle cx="{across.at(math.log10(point.x)):.1f}" cy="{up.at(point.y):.1f}" r="5" '
            f'fill="{colors[point.group]}" fill-opacity="0.7"><title>{escape(point.label)}: {point.y:.4f}</title></circle>'
        )
    for index, group in enumerate(groups):
        height = _HEIGHT - _BOTTOM - 16 * (index + 1)
        parts.append(f'<circle cx="{_WIDTH - 110}" cy="{height}" r="5" fill="{colors[group]}"/>')
        parts.append(_text(_WIDTH - 98, height + 4, group, "start"))
    return parts


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return _Scale(low - margin, high + margin, start, end)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
