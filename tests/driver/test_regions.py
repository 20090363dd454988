"""Compiled models of several regions on several backends: answers, checks, saving, refreshing, reports."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from native_kit import needs_kernels
from torch import Tensor, nn

import recfx
from recfx.capture import MAX_BATCH, capture
from recfx.driver.build import build
from recfx.driver.options import Options
from recfx.driver.parts import Parts
from recfx.driver.plans import Layout
from recfx.ir.numeric import Exactness
from recfx.ir.region import Region
from recfx.pipeline import Pipeline
from recfx.targets import BACKENDS, EagerBackend, Lowered

pytestmark = needs_kernels
BATCHES = (1, 2, 7, 64)


class Toy(EagerBackend):
    """A backend that saves a file of its own; `error` is added to its outputs."""

    name: ClassVar[str] = "toy"
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.loaded: list[bytes] = []

    def lower(self, region: Region) -> Lowered:
        lowered = super().lower(region)

        def run(*values: Any) -> tuple[Any, ...]:
            return tuple(v + self.error if v.is_floating_point() else v for v in lowered.run(*values))

        return Lowered(self.name, region, run, lowered.left, lowered.operators)

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        return {"engine.bin": b"engine of " + lowered.region.outputs[0].encode()}

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        self.loaded.append(bytes(files["engine.bin"]))
        return self.lower(region)


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.bottom, self.middle, self.top = nn.Linear(6, 8), nn.Linear(16, 8), nn.Linear(8, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        bottom = self.bottom(dense).relu()
        joined = torch.cat([bottom, self.table(ids)], 1)
        middle = torch.tanh(self.middle(joined))
        return self.top(middle).squeeze(1), middle.softmax(1)


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 6, generator=generator), torch.randint(0, 50, (batch,), generator=generator)


#: Operator -> backend: native, toy, native, eager, native, one after another.
PLACES = {
    "linear": "native",
    "relu": "native",
    "embedding": "native",
    "cat": "toy",
    "linear_1": "native",
    "tanh": "eager",
    "linear_2": "native",
    "squeeze": "native",
    "softmax": "native",
}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    backend = Toy()
    monkeypatch.setitem(BACKENDS, "toy", backend)
    return backend


def placed(model: Ranker, target: tuple[str, ...] = ("native", "toy", "eager"), **more: Any) -> recfx.CompiledModel:
    """A model whose operators are on the backends of PLACES."""
    # A pass without rewrites that allows sums in another order, as the native backend computes them.
    options = Options(target, Pipeline("fold-batchnorm"), max_batch=MAX_BATCH, measure=False, **more)
    program = capture(model, inputs(4))
    assert {n.name for n in program.graph.nodes if n.op == "call_function"} == set(PLACES)
    parts: Parts = build(model, options, inputs(4), {}, weakref.ref(model), [Layout((PLACES,))])
    return recfx.CompiledModel(parts)


def agrees(fast: recfx.CompiledModel, model: Ranker) -> None:
    for batch in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs(batch)), model(*inputs(batch)), rtol=1e-5, atol=1e-6)


FIVE = ("native", "toy", "native", "eager", "native")


def test_five_regions_on_three_backends(toy: Toy) -> None:
    model = Ranker().eval()
    fast = placed(model)
    assert fast.report.backend == FIVE
    assert fast.placement == {f"region {i}": name for i, name in enumerate(FIVE)}
    agrees(fast, model)
    with pytest.raises(recfx.InputError, match="table"):
        fast(inputs(3)[0], torch.tensor([0, 50, 1]))


def test_they_are_saved_and_loaded(toy: Toy, tmp_path: Path) -> None:
    model = Ranker().eval()
    fast = placed(model)
    fast.save(tmp_path / "model")
    assert (tmp_path / "model" / "region-1.engine.bin").read_bytes() == b"engine of cat"
    again = recfx.load(tmp_path / "model")
    assert toy.loaded == [b"engine of cat"]
    assert again.placement == fast.placement
    for batch in BATCHES:
        assert all(map(torch.equal, again(*inputs(batch)), fast(*inputs(batch))))


def test_a_refresh_keeps_their_places(toy: Toy, tmp_path: Path) -> None:
    model = Ranker().eval()
    fast = placed(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    fast.refresh()
    assert fast.report.backend == FIVE
    agrees(fast, model)
    fast.save(tmp_path / "model")
    again = recfx.load(tmp_path / "model")
    with torch.no_grad():
        model.top.weight.add_(1.0)
    again.refresh(model, example_inputs=inputs(4))
    assert again.report.backend == FIVE
    agrees(again, model)


def test_they_are_explained(toy: Toy) -> None:
    fast = placed(Ranker().eval())
    text = recfx.explain(fast)
    assert text == fast.explain()
    assert ", ".join(FIVE) in text
    assert "aten.tanh" in text, "what torch runs is named"


def test_a_wrong_backend_loses_its_region_and_no_other(toy: Toy) -> None:
    toy.error = 1.0
    model = Ranker().eval()
    fast = placed(model)
    assert fast.report.backend == ("native", "eager", "native", "eager", "native")
    notices = [n for n in fast.report.notices if "left out of region 1" in n]
    assert len(notices) == 1
    assert notices[0].startswith("the toy backend does not compute the same as the model")
    agrees(fast, model)


def test_a_backend_that_fails_loses_its_region_and_no_other(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(region: Region) -> Lowered:
        raise ZeroDivisionError("engine")

    monkeypatch.setattr(toy, "lower", broken)
    model = Ranker().eval()
    fast = placed(model)
    assert fast.report.backend == ("native", "eager", "native", "eager", "native")
    assert any("ZeroDivisionError: engine" in n and "region 1" in n for n in fast.report.notices)
    agrees(fast, model)


def test_the_last_backend_that_is_wrong_is_an_error(toy: Toy) -> None:
    toy.error = 1.0
    with pytest.raises(recfx.VerificationError):
        placed(Ranker().eval(), target=("native", "eager", "toy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda regions: regions[:-1], "do not hold all operators"),
        (lambda regions: [regions[1], regions[0], *regions[2:]], "not those of the program"),
        (lambda regions: [{**r, "operators": []} for r in regions], "do not hold all operators"),
        (lambda regions: [{**r, "backend": "native"} for r in regions], "not those of the program"),
        (lambda regions: [{**regions[0], "files": ["region-9.bin"]}, *regions[1:]], "does not name region-9.bin"),
        (lambda regions: [{**regions[0], "backend": "os.system"}, *regions[1:]], "not registered"),
    ],
)
def test_regions_that_do_not_fit_the_program_are_refused(change: Any, message: str, toy: Toy, tmp_path: Path) -> None:
    from artifact_kit import rewrite_manifest

    placed(Ranker().eval()).save(tmp_path / "model")
    rewrite_manifest(tmp_path / "model", lambda m: {**m, "regions": change(m["regions"])})
    with pytest.raises(recfx.ArtifactError, match=message):
        recfx.load(tmp_path / "model")


def test_an_error_of_a_backend_keeps_its_place_and_its_hint(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(Ranker().eval()).save(tmp_path / "model")
    for place in (None, "engine.bin"):
        error = recfx.TargetError("the engine is too old", where=place, hint="build it again")
        monkeypatch.setattr(toy, "load", _raising(error))
        with pytest.raises(recfx.ArtifactError, match="refuses the program: the engine is too old") as caught:
            recfx.load(tmp_path / "model")
        folder = str(tmp_path / "model")
        assert caught.value.where == (folder if place is None else f"{folder}: {place}")
        assert caught.value.hint == "build it again"


def _raising(error: Exception) -> Any:
    def load(region: Region, files: Mapping[str, memoryview]) -> Lowered:
        raise error

    return load


def test_a_backend_that_is_not_registered_is_not_saved(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = placed(Ranker().eval())
    monkeypatch.delitem(BACKENDS, "toy")
    with pytest.raises(recfx.ArtifactError, match="not registered"):
        fast.save(tmp_path / "model")
