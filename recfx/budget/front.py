"""`Front`: compressed forms of one model by accuracy, time and bytes, as text, JSON and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recfx.driver.report import Measured
from recfx.errors import ArtifactError, TargetError
from recfx.formats.records import decode
from recfx.formats.strict_json import dump, parse
from recfx.ir.printer import human_bytes

#: The file of a front in its folder, and its picture.
FILE, PICTURE = "front.json", "front.png"


@dataclasses.dataclass(frozen=True)
class Point:
    """One form of the model.

    Attributes:
        name: The name of the folder in which it is saved.
        choices: Name of a group -> its form; groups that are not listed are unchanged.
        pipeline: The passes that make this form, as text for `pipeline=` of `recfx.optimize`.
        value: The metric.
        drop: How much lower the metric is than that of the user's model, on the same rows.
        interval: The ends of the paired interval of the drop; None if `evaluate` gives one number for a model.
        bytes: Bytes of parameters and buffers.
        times: Its times beside those of the user's model; empty if nothing was measured.
        harm: The estimate by which the form was chosen.
        dominated: Whether another form is at least as accurate, as small and as fast, and better in one of these.
    """

    name: str
    choices: dict[str, str]
    pipeline: str
    value: float
    drop: float
    interval: tuple[float, float] | None
    bytes: int
    times: tuple[Measured, ...]
    harm: float
    dominated: bool = False

    def _costs(self) -> tuple[float, ...]:
        return self.drop, float(self.bytes), *(time.ratio[0] for time in self.times)

    def dominates(self, other: Point) -> bool:
        """Whether it is at least as accurate, as small and as fast, and better in one of these."""
        pairs = list(zip(self._costs(), other._costs(), strict=False))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@dataclasses.dataclass(frozen=True)
class Front:
    """Forms of one model, the largest one first.

    Attributes:
        model: The name of the model.
        metric: The name of the metric.
        before: The metric of the user's model, on the rows on which all forms are measured.
        bytes: Bytes of parameters and buffers of the user's model.
        confidence: The confidence of the intervals.
        rows: The rows on which forms are measured; None if unknown.
        data: The digest of these rows and their labels; None if unknown.
        points: The forms.
        notices: What the reader should know.
        folder: The folder of the saved forms.
    """

    model: str
    metric: str
    before: float
    bytes: int
    confidence: float
    rows: int | None
    data: str | None
    points: tuple[Point, ...]
    notices: tuple[str, ...] = ()
    folder: str = ""

    @property
    def best(self) -> tuple[Point, ...]:
        """The forms that no other one dominates."""
        return tuple(point for point in self.points if not point.dominated)

    def path(self, point: Point) -> Path:
        """The folder of a saved form, for `recfx.load`."""
        return Path(self.folder) / point.name

    def to_json(self) -> str:
        """All fields as JSON, without the folder."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        return dump(fields, indent=1).decode()

    @staticmethod
    def read(folder: str | Path) -> Front:
        """The front of a folder that `recfx.pareto` wrote.

        Raises:
            ArtifactError: The folder holds no front, or a damaged one.
        """
        file = Path(folder) / FILE
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"the folder holds no front: {error.strerror}", where=str(file), hint="pass the folder= of recfx.pareto"
            ) from error
        found: Front = decode(Front, parse(data, str(file)), str(file))
        return dataclasses.replace(found, folder=str(folder))

    def plot(self, path: str | Path | None = None) -> Path:
        """Draws bytes and drop of all forms, coloured by time, as a PNG.

        Args:
            path: The file; by default `front.png` in the folder.

        Raises:
            TargetError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise TargetError("matplotlib is needed to draw a front", hint='pip install "recfx[plot]"') from error
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, figure, self)
        file = Path(self.folder) / PICTURE if path is None else Path(path)
        figure.savefig(file, format="png", dpi=120)
        return file

    def __str__(self) -> str:
        on = "" if self.rows is None else f" on {self.rows:,} rows (data {self.data})"
        lines = [
            f"{self.model}: {self.metric} {self.before:.6f}{on}, {human_bytes(self.bytes)}; "
            f"drops with {self.confidence:.4g} intervals, times as multiples of your model's"
        ]
        rows = [("form", "bytes", "", "drop", "interval", *_titles(self.points), "front")]
        rows += [self._row(point) for point in self.points]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            cells = [
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        return "\n".join([*lines, *(f"  note: {notice}" for notice in self.notices)])

    def _row(self, point: Point) -> tuple[str, ...]:
        interval = "" if point.interval is None else f"{point.interval[0]:+.6f} to {point.interval[1]:+.6f}"
        times = [f"{time.ratio[0]:.3f} ×" for time in point.times]
        share = f"{point.bytes / max(self.bytes, 1):.3f} ×"
        mark = "" if point.dominated else "yes"
        return point.name, human_bytes(point.bytes), share, f"{point.drop + 0.0:+.6f}", interval, *times, mark


def _titles(points: Sequence[Point]) -> list[str]:
    return [f"batch {time.batch}" for time in points[0].times] if points else []


def marked(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, the largest first, with those marked that another one dominates."""
    ordered = sorted(points, key=lambda point: (-point.bytes, point.drop))
    return tuple(dataclasses.replace(p, dominated=any(o.dominates(p) for o in ordered)) for p in ordered)


def _draw(axes: Any, figure: Any, front: Front) -> None:
    points = front.points
    shares = [point.bytes / max(front.bytes, 1) for point in points]
    drops = [point.drop for point in points]
    for share, point in zip(shares, points, strict=True):
        if point.interval is not None:
            axes.vlines(share, *point.interval, color="0.7", zorder=1)
    times = [point.times[-1].ratio[0] for point in points if point.times]
    if points and len(times) == len(points):
        drawn = axes.scatter(shares, drops, c=times, zorder=2)
        batch = points[0].times[-1].batch
        figure.colorbar(drawn, label=f"time at batch {batch}, as a multiple of the model's")
    else:
        axes.scatter(shares, drops, zorder=2)
    best = sorted((share, point.drop) for share, point in zip(shares, points, strict=True) if not point.dominated)
    axes.plot([share for share, _ in best], [drop for _, drop in best], color="0.4", linewidth=1, zorder=1)
    axes.set_xlabel("bytes, as a multiple of the model's")
    axes.set_ylabel(f"drop of {front.metric}")
    axes.set_title(front.model)
