"""The picture of a simulation."""

from __future__ import annotations

import dataclasses
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator_kit import LADDER, scenario

from recfx.serve.simulator import Fault, Report, simulate
from recfx.serve.simulator.plot import Line, Panel, panels, svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report() -> Report:
    return simulate(scenario(600.0, variants=LADDER, seconds=4.0, faults=(Fault(0, 2.0),)))


def test_the_picture_is_well_formed_and_shows_every_line(report: Report) -> None:
    root = ElementTree.fromstring(svg(report, "fp32 & <int8>"))
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert "fp32 & <int8>" in texts
    for panel in panels(report):
        assert panel.title in texts
        assert all(line.name in texts for line in panel.lines)
    assert "SLA" in texts


def test_everything_lies_within_the_picture(report: Report) -> None:
    root = ElementTree.fromstring(svg(report, "a title"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter(f"{SVG}path"):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", element.attrib["d"]):
            assert 0.0 <= float(x) <= width
            assert 0.0 <= float(y) <= height
    for element in root.iter(f"{SVG}rect"):
        x, y = float(element.attrib.get("x", 0)), float(element.attrib.get("y", 0))
        assert 0.0 <= x <= x + float(element.attrib["width"]) <= width + 0.1
        assert 0.0 <= y <= y + float(element.attrib["height"]) <= height + 0.1


def test_the_lines_are_those_of_the_report(report: Report) -> None:
    drawn = {line.name: line.values for panel in panels(report) for line in panel.lines}
    parts = report.intervals
    assert drawn["offered"] == tuple(part.offered for part in parts)
    assert drawn["p99"] == pytest.approx(tuple(part.p99 * 1e3 for part in parts), nan_ok=True)
    assert drawn["int8"] == tuple(part.variants["int8"] for part in parts)
    assert min(drawn["replicas"]) == 1.0


def test_one_variant_has_no_diagram_of_variants() -> None:
    one = simulate(scenario(seconds=1.0))
    assert len(panels(one)) == 3
    assert "by variant" not in svg(one, "")


def test_a_time_without_answers_interrupts_the_line() -> None:
    dead = simulate(scenario(200.0, 1, seconds=3.0, faults=(Fault(0, 1.0, 2.0),), detect_seconds=0.0))
    latency = next(panel for panel in panels(dead) if "latency" in panel.title)
    assert any(math.isnan(value) for value in latency.lines[0].values)
    assert "nan" not in svg(dead, "a title")
    assert "failed" in svg(dead, "a title")


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=9), st.booleans())
def test_the_axis_holds_every_value_and_is_not_much_larger(values: list[float], stacked: bool) -> None:
    panel = Panel("", (Line("a", tuple(values)), Line("b", tuple(values))), stacked=stacked)
    highest = max(values) * (2 if stacked else 1)
    assert panel.top >= highest * (1 - 1e-9)
    assert panel.top <= 2.5 * highest * (1 + 1e-9) or highest < 1e-9
    limited = dataclasses.replace(panel, limit=("SLA", 3e9), stacked=False)
    assert limited.top == 5e9
