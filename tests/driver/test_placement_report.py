"""The text about plans and regions: units, numbers of operators, and what other backends would have taken."""

from __future__ import annotations

import pytest

from recfx.driver.placement_report import Alternative, PlanTimes, RegionReport, in_units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.0, "0 µs"),
        (12.34e-6, "12.3 µs"),
        (999e-6, "999 µs"),
        (1e-3, "1 ms"),
        (0.25, "250 ms"),
        (1.0, "1 s"),
        (12.5, "12.5 s"),
    ],
)
def test_seconds_have_the_unit_that_keeps_them_below_a_thousand(seconds: float | None, text: str) -> None:
    assert in_units(seconds) == text


def test_a_plan_names_what_is_known_of_it() -> None:
    whole = PlanTimes("native", ((1, 1e-5), (64, 2e-5)), ((1, 1.5e-5),), "at all sizes", "checked")
    assert str(whole) == "native: runs at all sizes; predicted 10 µs at 1, 20 µs at 64; measured 15 µs at 1; checked"
    assert str(PlanTimes("openvino", note="it failed")) == "openvino: it failed"


def test_another_backend_is_refused_predicted_or_only_named() -> None:
    assert str(Alternative("onnxruntime", reasons=("a", "b"))) == "onnxruntime refuses a; b"
    assert str(Alternative("onnxruntime", 3e-6)) == "onnxruntime 3 µs predicted"
    assert str(Alternative("onnxruntime")) == "onnxruntime"


@pytest.mark.parametrize(("kinds", "more"), [(5, ""), (6, ""), (7, " and 1 more kinds")])
def test_a_region_lists_six_kinds_of_operators(kinds: int, more: str) -> None:
    operators = tuple((f"op{i}", 1 if i else 3) for i in range(kinds))
    report = RegionReport("native", operators, predicted=1e-3, measured=2e-3, others=(Alternative("eager"),))
    first, *others = report.lines(2)
    names = ", ".join(["op0 × 3", *(f"op{i}" for i in range(1, min(kinds, 6)))])
    assert first == f"region 2 on native: 1 ms predicted; 2 ms measured; {names}{more}"
    assert others == ["  eager"]


def test_a_region_without_times_begins_with_its_operators() -> None:
    assert RegionReport("native", (("aten.add", 2),), measured=0.0).lines(0) == [
        "region 0 on native: 0 µs measured; aten.add × 2"
    ]
    assert RegionReport("native", (("aten.add", 2),)).lines(0) == ["region 0 on native: aten.add × 2"]
