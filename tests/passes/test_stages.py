"""The stages of the default pipelines, and the user's passes between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.driver.options import choose_pipeline
from recfx.ir import Program
from recfx.passes import (
    DEFAULT_PIPELINE,
    FUSED,
    NATIVE_PIPELINE,
    PRECISIONS,
    STAGES,
    FoldAffine,
    MergeDuplicates,
    default_pipeline,
    default_stages,
    precisions,
    with_extra_passes,
)
from recfx.pipeline import PassContext, Pipeline
from recfx.targets import BACKENDS, EagerBackend, NativeBackend

KINDS = [(requests, kernels) for requests in (False, True) for kernels in (frozenset[str](), FUSED)]


@pytest.mark.parametrize(("requests", "kernels"), KINDS)
def test_names_are_unique_and_no_pass_stands_twice(requests: bool, kernels: frozenset[str]) -> None:
    stages = default_stages(requests=requests, kernels=kernels)
    names = [stage.name for stage in stages]
    passes = [str(item) for stage in stages for item in Pipeline(stage.passes).passes]
    assert len(set(names)) == len(names)
    assert len(set(passes)) == len(passes)
    assert ("hoist" in names) is requests
    assert ("lookups" in names) is bool(kernels)


@pytest.mark.parametrize(("requests", "kernels"), KINDS)
def test_hoisting_comes_before_anything_is_batched(requests: bool, kernels: frozenset[str]) -> None:
    names = [stage.name for stage in default_stages(requests=requests, kernels=kernels)]
    for batching in {"batch", "linears", "lookups", "mlp"} & set(names):
        assert not requests or names.index("hoist") < names.index(batching)
        assert names.index("fold") < names.index(batching)


def test_the_stages_follow_from_what_the_backends_of_a_target_have_kernels_for() -> None:
    assert NativeBackend().kernels() >= FUSED
    assert {torch.ops.aten.linear.default.name(), "recfx::mlp"} <= NativeBackend().kernels()
    assert EagerBackend().kernels() == frozenset()
    assert default_pipeline(requests=False, kernels=NativeBackend().kernels()) == NATIVE_PIPELINE
    assert precisions(NativeBackend().kernels()) == list(PRECISIONS)
    assert precisions(FUSED - {"recfx::mlp"}) == ["fp32"]


def test_a_stage_goes_where_one_of_its_operators_has_no_kernel() -> None:
    names = {stage.name for stage in default_stages(requests=False, kernels={"recfx::mlp", "recfx::fm"})}
    assert {"mlp", "linears"} <= names
    assert not {"interactions", "lookups", "attention", "batch"} & names


class Kernels(EagerBackend):
    """A backend with a kernel for one operator of the dialect."""

    name = "kernels"

    def kernels(self) -> frozenset[str]:
        return frozenset({"recfx::fm", "recfx::mlp"})


def test_the_default_pipeline_of_a_target_counts_the_backends_in_front_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BACKENDS, "kernels", Kernels())

    def passes(*target: str) -> str:
        return str(choose_pipeline(None, target, False, "fp32", {}))

    assert passes("kernels") == default_pipeline(requests=False, kernels=Kernels().kernels())
    assert passes("kernels", "eager") == passes("kernels")
    assert passes("eager", "kernels") == passes("eager") == DEFAULT_PIPELINE
    with pytest.raises(recfx.TargetError, match="computes in int8"):
        choose_pipeline(None, "kernels", False, "int8", {})


def test_every_stage_says_why() -> None:
    assert all(stage.reason.endswith(".") and len(stage.reason.split()) > 3 for stage in STAGES)


@pytest.mark.parametrize(
    "extra",
    [
        {"after:fold": "merge-duplicates"},
        {"after:fold": [MergeDuplicates]},
        {"after:fold": [MergeDuplicates()]},
        {"after:fold": Pipeline("merge-duplicates")},
        {"before:dead-channels": "merge-duplicates"},
    ],
)
def test_passes_go_between_stages(extra: Any) -> None:
    stages = default_stages(requests=False, kernels=FUSED)
    passes = [item.spec.name for item in with_extra_passes(stages, extra).passes]
    at = passes.index("fold-batchnorm")
    assert passes[at : at + 3] == ["fold-batchnorm", "merge-duplicates", "remove-dead-channels"]
    assert len(passes) == len(Pipeline(",".join(stage.passes for stage in stages)).passes) + 1


@pytest.mark.parametrize("place", ["after:folds", "fold", "around:fold", "after:batch", "after:"])
def test_a_place_that_is_not_there_is_an_error_that_lists_the_stages(place: str) -> None:
    with pytest.raises(recfx.PipelineError, match="clean, experts, fold") as caught:
        with_extra_passes(default_stages(requests=False, kernels=FUSED), {place: "merge-duplicates"})
    assert repr(place) in str(caught.value)


class CountLinears(recfx.Pass):
    """Records the number of linears that it finds."""

    spec = recfx.PassSpec("count-linears", "Counts linears.")
    seen: list[int] = []  # noqa: RUF012 - shared by all instances that the pipeline makes

    def run(self, program: Program, ctx: PassContext) -> None:
        self.seen.append(sum(node.target is torch.ops.aten.linear.default for node in program.graph.nodes))


def test_optimize_takes_them() -> None:
    CountLinears.seen.clear()
    model = TinyCtr()
    places = {"before:mlp": [CountLinears], "after:mlp": CountLinears()}
    fast = recfx.optimize(model, target="native", example_inputs=tiny_inputs(4), extra_passes=places, measure=False)
    before, after = CountLinears.seen
    assert before > 0 == after
    assert [p.text for p in fast.report.passes][-3:] == ["count-linears", "fuse-mlp", "count-linears"]
    with torch.no_grad():
        torch.testing.assert_close(fast(*tiny_inputs(9)), model(*tiny_inputs(9)), rtol=1e-5, atol=1e-6)


def test_they_do_not_go_with_a_pipeline() -> None:
    with pytest.raises(recfx.InputError, match="extra_passes"):
        recfx.optimize(
            TinyCtr(),
            example_inputs=tiny_inputs(4),
            pipeline="canonicalize",
            extra_passes={"after:fold": [FoldAffine]},
        )
