"""A load as a picture: requests per second, the times of answers, and the active variant over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recfx.errors import ArtifactError, InputError, TargetError
from recfx.serve.load.run import Load, Numbers
from recfx.serve.simulator.plot import COLOURS, Line, Panel, picture

#: The kinds of pictures, by the ending of the file.
ENDINGS = (".png", ".svg")
_INTERVALS = 60  # at most, as wide as a screen shows well
_NARROWEST = 0.25  # seconds: shorter intervals have no 99th percentile


def require_drawable(path: Path) -> None:
    """Checks in advance that a picture can be written.

    Raises:
        InputError: The file has another ending.
        TargetError: The file is a PNG, and matplotlib is not installed.
    """
    if path.suffix not in ENDINGS:
        raise InputError(
            f"{path.name!r} is not a picture", where="plot", hint=f"pass a file that ends in {' or '.join(ENDINGS)}"
        )
    if path.suffix == ".png":
        _figure()


def draw(path: Path, load: Load, seen: Sequence[tuple[float, str]], title: str) -> None:
    """Writes the picture of a load.

    Args:
        path: The file, .png or .svg.
        load: The load, with one request at least.
        seen: The clock (`time.monotonic`) and the active variant, in the order of time; empty if it is not known.
        title: The title.

    Raises:
        InputError: The file has another ending.
        TargetError: The file is a PNG, and matplotlib is not installed.
        ArtifactError: The file cannot be written.
    """
    require_drawable(path)
    edges = edges_of(load)
    drawn = panels(load, seen, edges)
    begins, end = edges[:-1].tolist(), float(edges[-1])
    try:
        if path.suffix == ".svg":
            path.write_text(picture(drawn, begins, end, title), encoding="utf-8")
        else:
            _write_png(path, drawn, begins, end, title)
    except OSError as error:
        raise ArtifactError(
            f"the picture cannot be written: {error.strerror}", where=str(path), hint="pass another file"
        ) from error


def edges_of(load: Load) -> Numbers:
    """The begins of equal intervals of a load, and the end of the last, in seconds."""
    first, last = float(load.due[0]), float(load.due[-1])
    count = max(1, min(_INTERVALS, int((last - first) / _NARROWEST)))
    return np.linspace(first, max(last, first + _NARROWEST), count + 1)


def panels(load: Load, seen: Sequence[tuple[float, str]], edges: Numbers) -> list[Panel]:
    """The diagrams. A request counts for the interval in which it was due, whenever its answer came.

    Args:
        load: The load.
        seen: See `draw`.
        edges: See `edges_of`.
    """
    count, width = len(edges) - 1, float(edges[1] - edges[0])
    place = np.clip(np.searchsorted(edges, load.due, side="right") - 1, 0, count - 1)
    answered = load.answered
    offered, good = (np.bincount(chosen, minlength=count) / width for chosen in (place, place[answered]))
    times = [load.seconds[answered & (place == at)] for at in range(count)]
    rates = (_line("offered", offered), _line("answered", good), _line("lost", offered - good))
    quantiles = tuple(_line(f"p{share:g}", [_quantile(each, share) for each in times]) for share in (50, 99))
    found = [
        Panel("requests per second, by the time they were due", rates),
        Panel("milliseconds from the moment a request was due to its answer", quantiles),
    ]
    names = list(dict.fromkeys(name for _, name in seen))
    if names:
        clocks = np.asarray([clock for clock, _ in seen]) - load.begin
        shares = [
            [float(np.mean(inside)) if len(inside) else 0.0 for inside in _inside(clocks, seen, name, edges)]
            for name in names
        ]
        found.append(
            Panel("active variant", tuple(_line(n, s) for n, s in zip(names, shares, strict=True)), stacked=True)
        )
    return found


def _inside(
    clocks: Numbers,
    seen: Sequence[tuple[float, str]],
    name: str,
    edges: Numbers,
) -> list[list[bool]]:
    """For each interval, whether each look at the server in it found this variant; the last look before it if there was none in it."""
    found = []
    for begin, end in pairwise(edges):
        first, behind = np.searchsorted(clocks, (begin, end))
        looks = seen[first:behind] or seen[max(first - 1, 0) : first]
        found.append([variant == name for _, variant in looks])
    return found


def _quantile(times: Numbers, share: float) -> float:
    return float(np.percentile(times, share, method="higher")) * 1e3 if len(times) else math.nan


def _line(name: str, values: Any) -> Line:
    return Line(name, tuple(float(value) for value in values))


def _figure() -> Any:
    """The class of figures of matplotlib.

    Raises:
        TargetError: It is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TargetError(
            "matplotlib is needed to write a PNG", hint='pip install "recfx[plot]", or pass a file that ends in .svg'
        ) from error
    return Figure


def _write_png(path: Path, drawn: Sequence[Panel], begins: Sequence[float], end: float, title: str) -> None:
    figure = _figure()(figsize=(9, 2.4 * len(drawn)), layout="constrained")
    figure.suptitle(title)
    every = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(every, drawn, strict=True):
        axes.set_title(panel.title, fontsize=9, loc="left")
        edges = [*begins, end]
        below = np.zeros(len(begins))
        for line, colour in zip(panel.lines, COLOURS, strict=False):
            values = np.asarray(line.values)
            if panel.stacked:
                axes.stairs(below + values, edges, baseline=below, fill=True, label=line.name, color=colour)
                below = below + values
            else:
                axes.stairs(values, edges, baseline=None, label=line.name, color=colour)
        axes.set_ylim(bottom=0.0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    every[-1].set_xlabel("seconds")
    figure.savefig(path, format="png", dpi=120)
