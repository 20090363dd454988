"""Predicted times on a GPU, and regions that are too small for an engine."""

from __future__ import annotations

import pytest
import torch
from gpu_stand_in import Properties
from handed_over import HandedOverBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from recfx.cost.work import work_of
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets import Refused
from recfx.targets.tensorrt.times import CALL, COPY, Gpu, estimate, problem_of_size, seconds_of
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten


def layers(count: int, width: int) -> Program:
    b = GraphBuilder({"x": ("batch", width)})
    x = b.inputs["x"]
    for at in range(count):
        x = b.call(_aten.linear.default, x, b.state(f"weight{at}", torch.zeros(width, width)))
    return b.build(b.call(_aten.relu.default, x))


def test_the_limits_of_a_gpu_follow_from_its_clocks() -> None:
    found = Gpu.of(Properties())
    assert found.flops == pytest.approx(2 * 128 * 58 * 2.04e9)
    assert found.bandwidth == pytest.approx(2 * 6.251e9 * 192 / 8)

    class Silent:
        multi_processor_count = 58

    assert Gpu.of(Silent()) == Gpu()


def test_times_grow_with_the_work() -> None:
    region = Region.whole(layers(2, 256))
    slow, fast = Gpu(1e12, 1e11), Gpu(1e13, 1e12)
    times = [seconds_of(work_of(region, rows), slow) for rows in (1, 256, 8192)]
    assert times == sorted(times)
    assert seconds_of(work_of(region, 8192), fast) == pytest.approx(times[2] / 10)
    found = estimate(region, 8192, slow)
    assert found.low < found.seconds == times[2] < found.high
    assert 2 * 2 * 8192 * 256 * 256 / 1e12 < times[2] < 4 * 2 * 8192 * 256 * 256 / 1e12


def test_small_regions_do_not_pay_for_a_call() -> None:
    small, large = Region.whole(layers(1, 16)), Region.whole(layers(6, 1024))
    problem = problem_of_size(small, 256, Gpu())
    assert problem.startswith("a call of an engine costs more than these operators")
    assert problem_of_size(large, 256, Gpu()) == ""
    assert CALL + 2 * COPY < 1e-3, "larger models pay for their copies"


def test_where_the_model_lies_on_the_gpu_the_number_of_operators_decides() -> None:
    for count, pays in ((2, False), (20, True)):
        region = Region.whole(layers(count, 8))
        for node in region.graph.nodes:
            held = node.meta.get("val")
            if isinstance(held, torch.Tensor):
                with FakeTensorMode():
                    node.meta["val"] = torch.empty(
                        [n if isinstance(n, int) else 256 for n in held.shape], device="cuda"
                    )
        assert (problem_of_size(region, 256, Gpu()) == "") == pays


def test_a_small_region_is_refused_with_the_predicted_times() -> None:
    program = layers(1, 16)
    with pytest.raises(Refused, match="costs more than these operators") as caught:
        HandedOverBackend(small=False).lower(Region.whole(program))
    assert set(caught.value.reasons) == {node.name for node in program.graph.nodes if node.op == "call_function"}
