"""The figures of a report are those of its records."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator_kit import LADDER, scenario

from recfx.serve.simulator.records import Outcome, Records, Sample
from recfx.serve.simulator.report import Report

ended = st.tuples(
    st.floats(0.0, 4.999),
    st.integers(1, 500),
    st.sampled_from([o for o in Outcome if o is not Outcome.OPEN]),
    st.floats(0.0, 0.1),
)


def report_of(requests: list[tuple[float, int, Outcome, float]], warm_up: float = 0.0) -> Report:
    records = Records()
    for at, (sent, rows, outcome, seconds) in enumerate(sorted(requests)):
        number = records.begin(sent, rows)
        records.end(number, outcome, seconds, at % 3 if outcome is Outcome.ANSWERED else -1)
    records.samples += [Sample(time / 2.0, 2, 4, 3, (1, 1, 0)) for time in range(10)]
    records.core_seconds = 5.0
    return Report(scenario(variants=LADDER, warm_up=warm_up), records)


@given(st.lists(ended, max_size=60), st.sampled_from([0.0, 1.0]))
def test_counts_and_percentiles(requests: list[tuple[float, int, Outcome, float]], warm_up: float) -> None:
    report = report_of(requests, warm_up)
    inside = [request for request in requests if request[0] >= warm_up]
    answers = sorted(seconds for _, _, outcome, seconds in inside if outcome is Outcome.ANSWERED)
    assert report.requests == len(inside)
    assert len(answers) + report.rejected + report.count(Outcome.FAILED) == len(inside)
    assert report.late == sum(seconds > 0.025 for seconds in answers)
    counted = len(inside) - report.count(Outcome.LIMITED)
    assert report.violations == pytest.approx(1 - (len(answers) - report.late) / counted if counted else 0.0)
    assert report.throughput == pytest.approx(len(answers) / (5.0 - warm_up))
    if answers:
        assert report.latency(99.0) == answers[math.ceil(0.99 * len(answers)) - 1]
        assert sum(report.variants.values()) == pytest.approx(1.0)
        assert report.quality_given_away == pytest.approx(LADDER[0].quality - report.quality)
        assert report.tail(100.0) == (answers[-1] if len(answers) == len(inside) else math.inf)
    else:
        assert math.isnan(report.latency(99.0))


@given(st.lists(ended, max_size=60), st.integers(1, 20))
def test_intervals_add_up_to_the_whole(requests: list[tuple[float, int, Outcome, float]], count: int) -> None:
    report = report_of(requests)
    parts = report.over_time(count)
    assert len(parts) == min(count, 10)
    length = 5.0 / len(parts)
    for name, total in (
        ("offered", report.requests),
        ("answered", report.throughput * 5.0),
        ("rejected", report.rejected),
        ("failed", report.count(Outcome.FAILED)),
    ):
        assert sum(getattr(part, name) for part in parts) * length == pytest.approx(total)
    assert all(part.replicas == 2.0 and part.waiting == 3.0 for part in parts)


@given(st.lists(ended, max_size=20))
def test_the_figures_are_json_without_nan(requests: list[tuple[float, int, Outcome, float]]) -> None:
    report = report_of(requests)
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["summary"]["requests"] == report.requests
    assert len(values["over_time"]) == len(report.intervals)


def test_the_tables() -> None:
    report = report_of(
        [
            (0.1, 100, Outcome.ANSWERED, 0.01),
            (0.2, 100, Outcome.ANSWERED, 0.05),
            (0.3, 1, Outcome.REJECTED, 0.001),
            (0.4, 1, Outcome.FAILED, 0.1),
        ]
    )
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in str(report).splitlines()}
    assert lines["requests"] == "requests 4 0.8 per second"
    assert lines["rejected"] == "rejected 1 1 at arrival; p99 of the reply 1.00 ms"
    assert lines["late"] == "late 1 answered after 25.00 ms"
    assert lines["violations"] == "violations 75.000% requests without an answer in time"
    assert lines["p50"] == "p50 10.00 ms"
    assert lines["variant int8"] == "variant int8 50.0% of the answers"
    assert lines["quality"] == "quality 0.8134 0.00040 given away"
    over_time = report.table_over_time(5).splitlines()
    assert len(over_time) == 6
    assert over_time[0].split()[:3] == ["second", "offered/s", "answered/s"]
    assert over_time[2].split()[4:6] == ["-", "-"]
