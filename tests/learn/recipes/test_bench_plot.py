"""The scatter plot is valid SVG for any points."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from recfx.learn.recipes.plot import Point, scatter

_POINTS = st.builds(
    Point,
    x=st.floats(1, 1e12),
    y=st.floats(0, 1),
    label=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=9),
    group=st.sampled_from(["a", "b & c", "<d>"]),
)


@given(points=st.lists(_POINTS, max_size=9))
def test_every_point_is_inside_and_named(points: list[Point]) -> None:
    drawing = ElementTree.fromstring(scatter(points, "bytes", "recall", "a < b & c"))
    named = [circle for circle in drawing.iter("{http://www.w3.org/2000/svg}circle") if len(circle)]
    assert len(named) == len(points)
    for circle, point in zip(named, points, strict=True):
        assert 0 <= float(circle.attrib["cx"]) <= float(drawing.attrib["width"])
        assert 0 <= float(circle.attrib["cy"]) <= float(drawing.attrib["height"])
        assert circle[0].text == f"{point.label}: {point.y:.4f}"
