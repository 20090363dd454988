"""The cost model: shipped weights, calibrations, measured regions that override and improve it, and properties of its predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from calibration_kit import here, some_calibration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recfx.cost.calibration import BackendPoints, Point, store
from recfx.cost.estimate import NOTHING, Estimate
from recfx.cost.model import CostModel
from recfx.ir import Program
from recfx.ir.region import Region, split
from recfx.testing import GraphBuilder, rec_graphs

aten = torch.ops.aten


def layers(outputs: int = 64, count: int = 1) -> Region:
    b = GraphBuilder({"x": ("batch", 64)})
    x = b.inputs["x"]
    for number in range(count):
        weight = b.state(f"w{number}", torch.zeros(outputs if number == count - 1 else 64, 64))
        x = b.call(aten.relu.default, b.call(aten.linear.default, x, weight))
    return Region.whole(b.build(x))


def seconds(model: CostModel, region: Region, rows: int = 64, backend: str = "native") -> float:
    return model.unit(backend, region, rows, 1).seconds


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=rec_graphs(max_steps=8),
    backend=st.sampled_from(["native", "eager", "onnxruntime", "openvino", "somebody's own"]),
    rows=st.lists(st.integers(1, 5000), min_size=2, max_size=4),
    threads=st.sampled_from([1, 2, 7]),
)
def test_predictions_are_not_negative_and_grow_with_the_rows(
    program: Program, backend: str, rows: list[int], threads: int
) -> None:
    model, region = CostModel(cache=False), Region.whole(program)
    found = [model.unit(backend, region, number, threads) for number in sorted(rows)]
    for estimate in found:
        assert 0 <= estimate.low <= estimate.seconds <= estimate.high < math.inf
    for fewer, more in itertools.pairwise(found):
        assert fewer.seconds <= more.seconds * (1 + 1e-9)
    assert 0 < model.launch(backend, threads).seconds < 1e-3


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=rec_graphs(max_steps=8), data=st.data())
def test_a_program_takes_as_long_as_its_regions(program: Program, data: st.DataObject) -> None:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    parts = split(program, {node: data.draw(st.sampled_from("ab")) for node in calls})
    model = CostModel(cache=False)
    whole = seconds(model, Region.whole(program))
    apart = sum(seconds(model, region) for region in parts.regions)
    assert apart == pytest.approx(whole, rel=0.5, abs=2e-6)  # the caches that a lookup reads from depend on the region


def test_more_work_takes_longer() -> None:
    model = CostModel(cache=False)
    assert seconds(model, layers(64)) < seconds(model, layers(4096))
    assert seconds(model, layers(64)) < seconds(model, layers(64, count=4))
    assert seconds(model, layers(64), rows=8) < seconds(model, layers(64), rows=4096)
    many = GraphBuilder({"x": (("batch", 10), torch.int64)})
    rows = many.call(aten.embedding.default, many.state("t", torch.zeros(1000, 16)), many.inputs["x"])
    few = GraphBuilder({"x": (("batch", 1), torch.int64)})
    row = few.call(aten.embedding.default, few.state("t", torch.zeros(1000, 16)), few.inputs["x"])
    assert seconds(model, Region.whole(few.build(row))) < seconds(model, Region.whole(many.build(rows)))


def test_the_tables_size_counts_for_random_reads() -> None:
    def lookup(rows: int) -> Region:
        b = GraphBuilder({"x": (("batch", 20), torch.int64)})
        return Region.whole(b.build(b.call(aten.embedding.default, b.state("t", torch.zeros(rows, 16)), b.inputs["x"])))

    model = CostModel(cache=False)
    assert seconds(model, lookup(100), rows=50_000) < 0.7 * seconds(model, lookup(2_000_000), rows=50_000)


def test_handoffs_are_free_on_one_backend_and_known_or_assumed_between_two() -> None:
    model = CostModel({1: some_calibration()}, cache=False)
    assert model.handoff("a", "a", 1 << 30, 1) == NOTHING
    assert model.handoff("a", "b", 1 << 20, 1).seconds == pytest.approx(3e-6)
    for found in (model.handoff("b", "a", 4, 1), model.handoff("a", "b", 4, 2), model.handoff("x", "y", 4, 1)):
        assert 0 <= found.low <= found.seconds <= found.high <= 1e-5


def test_a_calibration_changes_the_weights(tmp_path: Path) -> None:
    region = layers()
    shipped = CostModel(cache=False)
    slow = tuple(Point("m", rows, columns, 100 * t) for rows, columns, t in measured(shipped, "native", range(1, 200)))
    store(some_calibration(backends={"native": BackendPoints("", slow)}), tmp_path)
    found = CostModel(cache=tmp_path)
    assert seconds(found, region) > 20 * seconds(CostModel(cache=False), region)
    assert seconds(found, region, backend="eager") == pytest.approx(
        seconds(CostModel({1: some_calibration()}, cache=False), region, backend="eager")
    )


def test_a_calibration_of_another_version_does_not_count(tmp_path: Path) -> None:
    points = tuple(
        Point("m", rows, columns, 100 * t)
        for rows, columns, t in measured(CostModel(cache=False), "native", range(1, 50))
    )
    store(some_calibration(backends={"native": BackendPoints("1", points)}), tmp_path)
    of_version = [seconds(CostModel(cache=tmp_path, versions={"native": v}), layers()) for v in ("1", "2")]
    assert of_version[0] > 5 * of_version[1]


def measured(model: CostModel, backend: str, counts: Any) -> list[tuple[int, dict[str, float], float]]:
    """Rows, columns and predicted time of a region at several numbers of rows, as if they had been measured."""
    region, found = layers(), []
    for rows in counts:
        columns = model._columns(model._known(region), region, rows, 1)
        found.append((rows, columns, (model.unit(backend, region, rows, 1) + model.launch(backend, 1)).seconds))
    return found


def test_a_measured_region_has_its_measured_time(tmp_path: Path) -> None:
    model, region = CostModel(cache=tmp_path), layers()
    model.record("native", region, 64, 1, Estimate(5e-3, 4e-3, 6e-3))
    for found in (model, CostModel(cache=tmp_path)):
        for other in (region, layers()):
            total = found.unit("native", other, 64, 1) + found.launch("native", 1)
            assert total.seconds == pytest.approx(5e-3, rel=1e-3)
            assert total.low < total.seconds < total.high
    assert seconds(CostModel(cache=tmp_path), region, backend="eager") < 4e-3
    assert seconds(CostModel(cache=tmp_path, versions={"native": "2"}), region) < 4e-3
    assert CostModel(cache=tmp_path).unit("native", region, 64, 2).seconds < 4e-3


def test_a_measured_region_scales_to_near_numbers_of_rows() -> None:
    model, region = CostModel(cache=False), layers()
    model.record("native", region, 64, 1, Estimate(5e-3, 4e-3, 6e-3))
    near = (model.unit("native", region, 100, 1) + model.launch("native", 1)).seconds
    assert 5e-3 < near < 5e-3 * 100 / 64 * 1.2
    assert model.unit("native", region, 5000, 1).seconds != pytest.approx(5e-3 * 5000 / 64, rel=0.01)


def test_measured_regions_improve_predictions_of_others() -> None:
    model = CostModel(cache=False)
    before = seconds(model, layers(128))
    for count in (1, 2, 3, 4, 5, 6):
        region = layers(64, count)
        for rows in (16, 64, 256, 1024):
            truth = 4 * (model_of_shipped(region, rows))
            model.record("native", region, rows, 1, Estimate(truth, truth * 0.9, truth * 1.1))
    assert seconds(model, layers(128)) == pytest.approx(4 * before, rel=0.35)


def model_of_shipped(region: Region, rows: int) -> float:
    shipped = CostModel(cache=False)
    return (shipped.unit("native", region, rows, 1) + shipped.launch("native", 1)).seconds


def test_a_region_without_digest_is_predicted_and_not_kept() -> None:
    region = layers()
    node = next(n for n in region.graph.nodes if n.target is aten.relu.default)
    node.kwargs = {"odd": object()}  # type: ignore[dict-item]
    model = CostModel(cache=False)
    before = seconds(model, region)
    model.record("native", region, 64, 1, Estimate.exactly(1.0))
    assert seconds(model, region) == before > 0
    assert len(model.units("native", 1)) == 0


def test_limits_come_from_the_nearest_measurement(tmp_path: Path) -> None:
    assert CostModel(cache=tmp_path).machine(1).matmul > 0
    store(some_calibration(), tmp_path)
    model = CostModel(cache=tmp_path)
    assert model.machine(1) == here()
    assert model.machine(4).threads == 4
    assert model.machine(4).matmul >= here().matmul


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(b"{"), lambda path: path.mkdir()])
def test_a_damaged_cache_is_as_none(tmp_path: Path, write: Callable[[Path], None]) -> None:
    model = CostModel(cache=tmp_path)
    model.record("native", layers(), 64, 1, Estimate.exactly(5e-3))
    store(some_calibration(), tmp_path)
    for file in list(tmp_path.glob("*.json")):
        file.unlink()
        write(file)
    assert seconds(CostModel(cache=tmp_path), layers()) == seconds(CostModel(cache=False), layers())
