"""Fronts: which forms are dominated, and fronts as text, JSON and pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.front import FILE, Front, Point, marked
from recfx.driver.report import Measured
from recfx.errors import ArtifactError, TargetError


def point(name: str, drop: float, size: int, ratio: float | None = None) -> Point:
    times = () if ratio is None else (Measured(1, 1e-3, ratio * 1e-3, (ratio, ratio, ratio)),)
    return Point(name, {"a": "4 bits"}, "canonicalize", 0.8 - drop, drop, (drop - 1e-3, drop + 1e-3), size, times, 0.1)


def front(*points: Point, folder: str = "") -> Front:
    return Front("Net", "AUC", 0.8, 1000, 0.95, 500, "abc", marked(points), ("a notice",), folder)


POINTS = [point("exact", 0.0, 1000, 0.5), point("small", 1e-3, 200, 0.2), point("worse", 2e-3, 300, 0.3)]


def test_a_form_that_another_one_surpasses_is_marked() -> None:
    found = front(*POINTS)
    assert [p.name for p in found.points] == ["exact", "worse", "small"]
    assert [p.name for p in found.best] == ["exact", "small"]


@pytest.mark.parametrize(
    ("one", "other", "dominates"),
    [
        ((1e-3, 100, 0.5), (1e-3, 100, 0.5), False),
        ((1e-3, 100, 0.5), (1e-3, 101, 0.5), True),
        ((1e-3, 100, 0.6), (1e-3, 101, 0.5), False),  # smaller, but slower
        ((1e-3, 100, None), (2e-3, 100, None), True),
    ],
)
def test_one_form_dominates_another(
    one: tuple[float, int, float | None], other: tuple[float, int, float | None], dominates: bool
) -> None:
    assert point("a", *one).dominates(point("b", *other)) is dominates


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 9), st.floats(0.1, 2)), min_size=1, max_size=9))
@settings(deadline=None)
def test_some_form_stays_and_each_other_one_is_dominated_by_one_that_stays(
    figures: list[tuple[float, int, float]],
) -> None:
    found = front(*(point(str(i), *each) for i, each in enumerate(figures)))
    assert found.best
    for each in found.points:
        assert each.dominated == any(other.dominates(each) for other in found.best)


def test_the_table_has_a_row_for_each_form() -> None:
    lines = str(front(*POINTS)).splitlines()
    assert lines[0].startswith("Net: AUC 0.800000 on 500 rows (data abc), 1.0 kB")
    assert lines[1].split() == ["form", "bytes", "drop", "interval", "batch", "1", "front"]
    assert "0.200 ×" in lines[4]
    assert "+0.001000" in lines[4]
    assert "+0.000000 to +0.002000" in lines[4]
    assert lines[4].endswith("yes")
    assert lines[-1] == "  note: a notice"
    assert str(front()).count("\n") == 2


def test_json_gives_the_same_front(tmp_path: Path) -> None:
    for points in (POINTS, [point("untimed", 0.0, 5)], []):
        found = front(*points, folder=str(tmp_path))
        (tmp_path / FILE).write_text(found.to_json())
        assert Front.read(tmp_path) == found


def test_a_folder_without_a_front(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no front") as caught:
        Front.read(tmp_path)
    assert caught.value.hint
    (tmp_path / FILE).write_text('{"model": 3}')
    with pytest.raises(ArtifactError):
        Front.read(tmp_path)


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TargetError, match="matplotlib is needed") as caught:
        front(*POINTS).plot(tmp_path / "front.png")
    assert 'pip install "recfx[plot]"' in (caught.value.hint or "")


@pytest.mark.parametrize("points", [POINTS, [point("untimed", 0.0, 5)], []], ids=["timed", "untimed", "none"])
def test_a_picture_is_a_png(points: list[Point], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = front(*points, folder=str(tmp_path)).plot()
    assert file == tmp_path / "front.png"
    assert file.read_bytes().startswith(b"\x89PNG")
