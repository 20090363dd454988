"""Models that the backends of the target run in part, and torch runs the rest: regions, reasons, saving, former saved
models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from artifact_kit import rewrite_manifest
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels
from torch import Tensor, fx, nn

import recfx
from recfx.capture import capture
from recfx.driver.lowering import lower
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ir.region import Region
from recfx.targets import EagerBackend, Lowered, NativeBackend, Refused, Verdict

BATCHES = (1, 2, 9, 70)


class Mixed(nn.Module):
    """Two layers with kernels, and a running maximum between them, which has no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.cummax(torch.relu(self.first(x)), -1).values
        return self.second(hidden).sigmoid(), hidden[:, -1]


def optimized(target: Any = "native") -> tuple[Mixed, recfx.CompiledModel]:
    model = Mixed().eval()
    return model, recfx.optimize(model, target=target, example_inputs=torch.randn(4, 3), measure=False)


def agrees(fast: recfx.CompiledModel, model: nn.Module) -> None:
    for batch in BATCHES:
        x = torch.randn(batch, 3)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("target", ["native", "cpu", ("native", "eager")])
def test_torch_runs_in_regions_of_its_own(target: Any) -> None:
    model, fast = optimized(target)
    assert fast.report.backend == ("native", "eager", "native")
    assert fast.placement == {"region 0": "native", "region 1": "eager", "region 2": "native"}
    assert ("aten.cummax.default", "no kernel for aten.cummax.default") in fast.report.left_to_torch
    assert "no kernel for aten.cummax.default" in fast.explain()
    agrees(fast, model)


@needs_kernels
def test_they_are_saved_loaded_and_refreshed(tmp_path: Path) -> None:
    model, fast = optimized()
    fast.save(tmp_path / "model")
    again = recfx.load(tmp_path / "model")
    assert again.placement == fast.placement
    assert again.report == fast.report
    agrees(again, model)
    with torch.no_grad():
        model.second.weight.mul_(3.0)
    again.refresh(model, example_inputs=torch.randn(4, 3))
    assert again.placement == fast.placement
    agrees(again, model)


@needs_kernels
@pytest.mark.parametrize("form", [3, 4])
def test_a_former_model_of_one_region_that_torch_shared_is_split_when_it_is_loaded(form: int, tmp_path: Path) -> None:
    """Former versions lowered and saved a mixed program as one region of the native backend."""
    model, fast = optimized()
    fast.save(tmp_path / "model")
    one: Any = "native" if form == 3 else {"backend": "native", "operators": [], "files": []}

    def change(manifest: dict[str, Any]) -> dict[str, Any]:
        manifest["report"]["backend"] = ["native"]
        return {**manifest, "format": form, "regions": [one]}

    rewrite_manifest(tmp_path / "model", change)
    again = recfx.load(tmp_path / "model")
    assert again.placement == fast.placement
    assert again.report.backend == fast.report.backend
    agrees(again, model)
    again.save(tmp_path / "again")
    agrees(recfx.load(tmp_path / "again"), model)


class Picky(EagerBackend):
    """A backend that runs the operators that it claims to support, except for some that it refuses in lowering."""

    name: ClassVar[str] = "picky"

    def __init__(self, unsupported: Sequence[Any] = (), refused: Sequence[Any] = (), fails: bool = False) -> None:
        self.unsupported, self.refused, self.fails = unsupported, refused, fails

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        if self.fails:
            raise ZeroDivisionError("engine")
        found = super().supports(program)
        return {
            n: Verdict(False, f"picky about {n.name}") if n.target in self.unsupported else v for n, v in found.items()
        }

    def lower(self, region: Region) -> Lowered:
        met = {n.name: f"met {n.name}" for n in region.graph.nodes if n.target in self.refused}
        if met:
            raise Refused(met)
        lowered = super().lower(region)
        return Lowered(self.name, region, lowered.run, (), lowered.operators)


_aten = torch.ops.aten


def lowered(backends: Sequence[Any]) -> Any:
    program = capture(TinyCtr(), tiny_inputs(4))
    runs = verify_numeric(program, program, Exactness.EXACT)
    placed, notices = lower(program, backends, runs, Exactness.EXACT)
    for got, want in zip(placed.run(*program.example), program.run(program.example), strict=True):
        assert torch.equal(got, want)
    left = {name: reason for region in placed.regions for name, reason in region.left}
    return placed, notices, left


def test_what_no_backend_of_the_target_supports_goes_to_torch_with_the_reason() -> None:
    placed, notices, left = lowered([Picky(unsupported=[_aten.cat.default])])
    assert set(placed.backends) == {"picky", "eager"}
    assert left == {"aten.cat.default": "picky about cat"}
    assert notices == ()


def test_what_a_backend_refuses_in_its_region_goes_to_the_next_alone() -> None:
    placed, notices, left = lowered([Picky(refused=[_aten.cat.default]), EagerBackend()])
    assert set(placed.backends) == {"picky", "eager"}
    assert left == {"aten.cat.default": "met cat"}
    assert notices == ()


def test_a_refusal_of_everything_leaves_torch_alone() -> None:
    program = capture(TinyCtr(), tiny_inputs(4))
    every = {node.target for node in program.graph.nodes if node.op == "call_function"}
    placed, _, left = lowered([Picky(refused=list(every))])
    assert placed.backends == ("eager",)
    assert all(reason.startswith("met ") for reason in left.values())


class Impossible(Picky):
    """It refuses an operator that is not in the program."""

    def lower(self, region: Region) -> Lowered:
        raise Refused({"nowhere": "no"})


class SizesRefused(Picky):
    """It refuses a size, which belongs to no backend, so that every region that reads it computes it."""

    def lower(self, region: Region) -> Lowered:
        sizes = {n.name: "no sizes" for n in region.graph.nodes if n.target is _aten.sym_size.int}
        if sizes:
            raise Refused(sizes)
        return super().lower(region)


def test_a_refusal_that_changes_no_region_is_a_failure() -> None:
    class Shaped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).reshape(x.shape[0], 2, 2)

    program = capture(Shaped().eval(), (torch.randn(4, 4),))
    assert any(node.target is _aten.sym_size.int for node in program.graph.nodes)
    runs = verify_numeric(program, program, Exactness.EXACT)
    placed, (notice,) = lower(program, [SizesRefused(), EagerBackend()], runs, Exactness.EXACT)
    assert placed.backends == ("eager",)
    assert "the picky backend fails on this model" in notice
    assert torch.equal(placed.run(*program.example)[0], program.run(program.example)[0])


def test_a_refusal_of_what_is_not_there_is_a_failure() -> None:
    placed, (notice,), _ = lowered([Impossible(), EagerBackend()])
    assert placed.backends == ("eager",)
    assert "the picky backend fails on this model" in notice
    with pytest.raises(Refused):
        lowered([Impossible()])


def test_a_dry_run_that_fails_leaves_the_backend_out() -> None:
    placed, (notice,), _ = lowered([Picky(fails=True), EagerBackend()])
    assert placed.backends == ("eager",)
    assert "the picky backend fails on this model, so it is left out: ZeroDivisionError: engine" in notice
    with pytest.raises(ZeroDivisionError):
        lowered([Picky(fails=True)])


@needs_kernels
def test_the_report_counts_many_regions() -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(6):
                x = torch.cummax(x.relu() * 2, -1).values
            return x

    fast = recfx.optimize(Deep().eval(), "native", example_inputs=torch.randn(4, 3), measure=False)
    assert fast.report.backend == ("native", "eager") * 6
    assert "on native (6 regions), eager (6 regions)" in str(fast.report)


@needs_kernels
def test_plans_say_which_sizes_are_known() -> None:
    """The outputs of a plan for torch and for a later plan have the sizes of the program; the sizes of torch's results
    are checked."""

    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = x.relu() * 2
            return torch.cummax(first, -1).values.sum(1, keepdim=True) * first

    fast = recfx.optimize(Chain().eval(), "native", example_inputs=torch.randn(4, 3), measure=False)
    (last,) = [n for n in fast.parts.regions[-1].body.graph.nodes if hasattr(n.target, "plan")]
    checked = last.target.__globals__["_otherwise"]
    assert len(checked.sources) == 2, "the torch path takes both inputs"
    first = fast.parts.regions[0]
    assert first.sized == frozenset(first.region.outputs)
    assert NativeBackend().lower(fast.parts.regions[-1].region).sized == frozenset()
