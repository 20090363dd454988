"""Engines of TensorRT-RTX without a GPU, up to the point of loading. `test_tensorrt_engines.py` runs these tests where it is installed."""

from __future__ import annotations

import sys
from operator import getitem
from pathlib import Path
from typing import Any

import gpu_stand_in
import pytest
import torch
from handed_over import HandedOverBackend

sys.path.append(str(Path(__file__).parent.parent / "conformance"))
from conformance_cases import CASES
from conformance_kit import check_numbers, place
from joined_cases import groups

import recfx
from recfx.doctor import examine
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets import BACKENDS
from recfx.targets.tensorrt import package
from recfx.targets.tensorrt.engine import built, key_of
from recfx.targets.tensorrt.handover import HandedOver, hand_over
from recfx.targets.tensorrt.support import refusals
from recfx.testing.builder import GraphBuilder
from recfx.zoo import MODELS


class BuildingBackend(HandedOverBackend):
    """Asks the registry and builds every engine; torch runs in place of the loaded engine."""

    def __init__(self) -> None:
        super().__init__(registry=True)
        self.engines: list[bytes] = []

    def _engine(self, region: Region, handed: HandedOver) -> bytes:
        self.engines.append(built(handed))
        return super()._engine(region, handed)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.stand_in(monkeypatch)
    package.module()
    import tensorrt

    monkeypatch.setattr(tensorrt, "Runtime", gpu_stand_in.Runtime)


def test_the_package_is_ready() -> None:
    assert package.missing() is None
    assert package.build() == package.RTX
    assert package.identity().startswith("torch-tensorrt-rtx 2.13")
    assert "unknown" not in package.identity()
    assert package.untested() == ""
    (line,) = (finding for finding in examine() if finding.subject == "backend tensorrt")
    assert line.present
    assert line.detail.startswith("ready, torch-tensorrt-rtx 2.13")


def test_every_operator_that_is_supported_is_built_and_right() -> None:
    backend = BuildingBackend()
    taken = [case for case in CASES if all(backend.supports(case.program()).values())]
    assert len(taken) > 0.8 * len(CASES)
    for cases, program in groups(taken):
        names = [case.name for case in cases]
        copies = refusals(Region.whole(program), backend._converter, lowering=True)
        assert all("needs no engine" in reason for reason in copies.values()), names
        before = len(backend.engines)
        placed = place(program, backend)
        check_numbers(next((case for case in cases if case.sums), cases[0]), program, placed.run, backend)
        assert len(backend.engines) > before or len(copies) == len(cases), names
    assert all(len(engine) > 1000 for engine in backend.engines)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_of_the_zoo(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = BuildingBackend()
    monkeypatch.setitem(BACKENDS._held, "tensorrt", backend)
    torch.manual_seed(0)
    model: Any = MODELS[name].small().eval()  # type: ignore[attr-defined]
    fast = recfx.optimize(model, example_inputs=model.example_inputs(6), target=["tensorrt", "eager"], measure=False)
    assert not [notice for notice in fast.report.notices if "tensorrt" in notice], fast.report.notices
    assert backend.engines
    for batch in (1, 33):
        given = model.example_inputs(batch)
        with torch.no_grad():
            torch.testing.assert_close(fast(*given), model(*given), rtol=1e-4, atol=1e-4)


def bag_program() -> Program:
    """One bag of 5 ids over a table of 1000 rows."""
    b = GraphBuilder({"ids": (("5*batch",), torch.int64)})
    size = b.call(torch.ops.aten.sym_size.int, b.inputs["ids"], 0)
    offsets = b.call(torch.ops.aten.arange.start_step, 0, size, 5)
    table = b.state("table", torch.randn(1000, 16))
    bag = b.call(
        *(torch.ops.aten.embedding_bag.padding_idx, table, b.inputs["ids"], offsets, False, 0, False, None, False, None)
    )
    return b.build(b.call(getitem, bag, 0))


def test_the_engine_of_a_bag_is_about_as_large_as_its_table() -> None:
    engine = built(hand_over(Region.whole(bag_program())))
    assert 1000 * 16 * 4 <= len(engine) < 1000 * 16 * 4 + (1 << 20)


def test_a_dry_run_of_the_compiler_takes_the_whole_region(capsys: pytest.CaptureFixture[str]) -> None:
    import torch_tensorrt

    handed = hand_over(Region.whole(bag_program()))
    specs = [
        torch_tensorrt.Input(min_shape=low, opt_shape=usual, max_shape=high, dtype=dtype)
        for dtype, (low, usual, high) in zip(handed.dtypes(), handed.profiles(), strict=True)
    ]
    made = torch_tensorrt.dynamo.compile(handed.exported.program, arg_inputs=specs, dryrun=True, **package.settings())
    parts = [name for name, _ in made.named_children()]
    assert len([name for name in parts if "_run_on_acc" in name]) == 1, parts
    assert not [name for name in parts if "_run_on_gpu" in name], parts


def test_one_region_has_one_key() -> None:
    assert key_of(Region.whole(bag_program())) != key_of(Region.whole(bag_program())), "the tables differ"
    region = Region.whole(bag_program())
    assert key_of(region) == key_of(region.clone())
