"""Lowered regions: calls, ids, sizes outside the engine, stored engines, and failures. Torch runs the graph in place of the engine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_stand_in import stand_in
from handed_over import HandedOverBackend
from torch import nn

import recfx
from recfx.errors import ArtifactError, IdError, TargetError
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets import BACKENDS, Lowered, package_cache
from recfx.targets.tensorrt import TensorRTBackend, package
from recfx.targets.tensorrt import engine as engines
from recfx.targets.tensorrt.backend import TRUST
from recfx.targets.tensorrt.handover import BATCH, HandedOver
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(TRUST, raising=False)
    return package_cache.default_folder("tensorrt")


def tower() -> Program:
    b = GraphBuilder({"x": ("batch", 6), "ids": (("batch",), torch.int64)})
    table = b.state("table", torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    row = b.call(_aten.embedding.default, table, b.inputs["ids"])
    weight = b.state("weight", torch.randn(3, 10, generator=torch.Generator().manual_seed(1)))
    joined = b.call(_aten.cat.default, [b.inputs["x"], row], 1)
    return b.build(b.call(_aten.relu.default, b.call(_aten.linear.default, joined, weight)))


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 6, generator=generator), torch.randint(0, 5, (batch,), generator=generator)


class Counting(HandedOverBackend):
    """Counts the calls of engines."""

    calls = 0

    def _runner(self, engine: bytes, handed: HandedOver) -> Any:
        run = super()._runner(engine, handed)

        def counted(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            self.calls += 1
            return run(given)

        return counted


def test_a_region_is_one_call_of_its_engine() -> None:
    backend, program = Counting(), tower()
    lowered = backend.lower(Region.whole(program))
    assert (lowered.backend, lowered.operators, lowered.left) == ("tensorrt", 4, ())
    assert backend.calls == 1, "a first call shows that the engine runs"
    for count, batch in enumerate((1, 2, 7, 64), 2):
        for got, want in zip(lowered.run(*inputs(batch)), program.run(inputs(batch)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        assert backend.calls == count


@pytest.mark.parametrize("batch", [0, BATCH[2] + 1])
def test_sizes_outside_the_engine_run_on_torch(batch: int) -> None:
    backend, program = Counting(), tower()
    lowered = backend.lower(Region.whole(program))
    torch.testing.assert_close(lowered.run(*inputs(batch))[0], program.run(inputs(batch))[0], rtol=1e-5, atol=1e-6)
    assert backend.calls == 1
    lowered.run(*inputs(BATCH[2]))
    assert backend.calls == 2


@pytest.mark.parametrize("bad", [-1, 5, 2**32, 2**40])
def test_ids_outside_the_table_are_named(bad: int) -> None:
    backend = Counting()
    lowered = backend.lower(Region.whole(tower()))
    with pytest.raises(IdError, match="outside its table of 5 rows"):
        lowered.run(torch.zeros(2, 6), torch.tensor([0, bad]))
    assert backend.calls == 1


def test_inputs_with_gaps_and_gradients() -> None:
    program = tower()
    run = HandedOverBackend().lower(Region.whole(program)).run
    x, ids = torch.randn(9, 12)[:, ::2], torch.randint(0, 5, (9, 2))[:, 0]
    found = run(x.requires_grad_(), ids)[0]
    torch.testing.assert_close(found, program.run([x.detach(), ids])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fault", ["raises", "another shape", "another type", "too few"])
def test_an_engine_that_does_not_run_fails_while_it_is_lowered(fault: str) -> None:
    class Faulty(HandedOverBackend):
        def _runner(self, engine: bytes, handed: HandedOver) -> Any:
            run = super()._runner(engine, handed)

            def faulty(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
                made = list(run(given))
                match fault:
                    case "raises":
                        raise RuntimeError("Error Code 1: Myelin\nmore")
                    case "another shape":
                        return [made[0].T]
                    case "another type":
                        return [made[0].half()]
                return []

            return faulty

    with pytest.raises(TargetError, match=r"the engine of the region (fails: RuntimeError: Error Code 1|returns)"):
        Faulty().lower(Region.whole(tower()))


class Model(nn.Module):
    """A table and two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 6)
        self.layers = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([dense, self.table(ids)], 1))


def of_model(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3), torch.randint(0, 20, (batch,))


def test_a_backend_that_fails_gives_its_region_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(HandedOverBackend):
        def _engine(self, region: Region, handed: HandedOver) -> bytes:
            raise TargetError("TensorRT cannot build the region: out of memory", hint="give it to another backend")

    monkeypatch.setitem(BACKENDS._held, "tensorrt", Broken())
    fast = recfx.optimize(Model().eval(), example_inputs=of_model(4), target=["tensorrt", "eager"], measure=False)
    assert set(fast.placement.values()) == {"eager"}
    assert any("TensorRT cannot build the region: out of memory" in notice for notice in fast.report.notices)


def test_a_saved_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch)
    monkeypatch.setitem(BACKENDS._held, "tensorrt", HandedOverBackend())
    model = Model().eval()
    fast = recfx.optimize(model, example_inputs=of_model(4), target="tensorrt", measure=False)
    assert set(fast.placement.values()) == {"tensorrt"}
    fast.save(tmp_path / "model")
    again = recfx.load(tmp_path / "model")
    assert again.placement == fast.placement
    for batch in (1, 7):
        given = of_model(batch)
        with torch.no_grad():
            torch.testing.assert_close(again(*given), model(*given), rtol=1e-5, atol=1e-6)


class Stored(HandedOverBackend):
    """Builds engines with the real cache, and remembers which engine runs."""

    def __init__(self) -> None:
        super().__init__()
        self.run: list[bytes] = []

    def _engine(self, region: Region, handed: HandedOver) -> bytes:
        return engines.engine_of(region, handed)

    def _runner(self, engine: bytes, handed: HandedOver) -> Any:
        self.run.append(engine)
        return super()._runner(engine, handed)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that were built."""
    stand_in(monkeypatch)
    found: list[str] = []

    def build(handed: HandedOver) -> bytes:
        found.append(package.gpu())
        return f"engine {len(found)}".encode()

    monkeypatch.setattr(engines, "built", build)
    return found


def files_of(backend: HandedOverBackend, lowered: Lowered) -> dict[str, memoryview]:
    return {name: memoryview(content) for name, content in backend.save(lowered).items()}


def test_an_engine_is_built_once(builds: list[str], folder: Path) -> None:
    backend = Stored()
    first = backend.lower(Region.whole(tower()))
    backend.lower(Region.whole(tower()))
    backend.load(Region.whole(tower()), files_of(backend, first))
    assert len(builds) == 1
    assert not TensorRTBackend().slow_to_lower(Region.whole(tower()))
    assert backend.run == [b"engine 1"] * 3
    (place,) = folder.iterdir()
    assert json.loads((place / "record.json").read_text())["built by"] == package.identity()


@pytest.mark.parametrize("change", ["weights", "gpu", "version", "settings", "damage"])
def test_an_engine_is_built_again_when_something_changes(
    builds: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    backend, region = Stored(), Region.whole(tower())
    backend.lower(region)
    match change:
        case "weights":
            with torch.no_grad():
                region.module.weight.add_(1)  # type: ignore[operator, union-attr]
        case "gpu":
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA L40S")
        case "version":
            monkeypatch.setattr(package, "identity", lambda: "torch-tensorrt 2.14.0, tensorrt 11.1")
        case "settings":
            monkeypatch.setattr(package, "settings", lambda: {"disable_tf32": False})
        case "damage":
            (file,) = folder.glob("*/package.pt2")
            file.write_bytes(b"other code")
    backend.lower(region)
    assert len(builds) == 2
    assert backend.run == [b"engine 1", b"engine 2"]


def test_a_folder_that_cannot_be_written(builds: list[str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file in its place")
    backend = Stored()
    assert TensorRTBackend().slow_to_lower(Region.whole(tower()))
    backend.lower(Region.whole(tower()))
    backend.lower(Region.whole(tower()))
    assert backend.run == [b"engine 1", b"engine 2"]


@pytest.mark.parametrize("trusted", [True, False])
def test_engines_of_saved_models_need_trust(
    builds: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    backend = Stored()
    files = files_of(backend, backend.lower(Region.whole(tower())))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "of another machine"))
    if trusted:
        monkeypatch.setenv(TRUST, "1")
    backend.load(Region.whole(tower()), files)
    assert backend.run == [b"engine 1", b"engine 1" if trusted else b"engine 2"]


def test_an_engine_for_another_gpu_is_built_again_even_with_trust(
    builds: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Stored()
    files = files_of(backend, backend.lower(Region.whole(tower())))
    monkeypatch.setenv(TRUST, "1")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA L40S")
    backend.load(Region.whole(tower()), files)
    assert backend.run == [b"engine 1", b"engine 2"]


DAMAGED: dict[str, Any] = {
    "no record": lambda f: {"engine": f["engine"]},
    "no engine": lambda f: {"tensorrt.json": f["tensorrt.json"]},
    "no files": lambda f: {},
    "an engine that is cut short": lambda f: {**f, "engine": f["engine"][:3]},
    "another engine": lambda f: {**f, "engine": b"other code"},
    "a record that is not JSON": lambda f: {**f, "tensorrt.json": b"{"},
    "a record that is a list": lambda f: {**f, "tensorrt.json": b"[1]"},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_refused(builds: list[str], monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    monkeypatch.setenv(TRUST, "1")
    backend = Stored()
    files: Mapping[str, bytes] = dict(backend.save(backend.lower(Region.whole(tower()))))
    with pytest.raises(ArtifactError, match="do not describe a region of this backend"):
        backend.load(Region.whole(tower()), {n: memoryview(c) for n, c in damage(files).items()})


def test_files_of_another_region_are_not_used(builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST, "1")
    backend, other = Stored(), tower()
    files = dict(backend.save(backend.lower(Region.whole(other))))
    forged = json.loads(files["tensorrt.json"])
    files["engine"] = b"other code"
    files["tensorrt.json"] = json.dumps({**forged, "sha256": hashlib.sha256(b"other code").hexdigest()}).encode()
    region = Region.whole(tower())
    with torch.no_grad():
        region.module.weight.add_(1)  # type: ignore[operator, union-attr]
    backend.load(region, {n: memoryview(c) for n, c in files.items()})
    assert b"other code" not in backend.run


def test_calls_of_one_engine_wait_for_each_other() -> None:
    active, most = 0, 0

    def module(*_: Any) -> torch.Tensor:
        nonlocal active, most
        active += 1
        most = max(most, active)
        threading.Event().wait(0.01)
        active -= 1
        return torch.zeros(1)

    run = engines._Engine(module)
    workers = [threading.Thread(target=run, args=([torch.zeros(1)],)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == 1
