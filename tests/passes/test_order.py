"""The order of passes: the properties that each requires, prefers, avoids and forbids, and the messages for wrong
orders."""

from __future__ import annotations

import pytest
import torch
from models import TinyCtr, tiny_inputs
from pass_cases import Case, Function, program_of

import recfx
from recfx.passes import FUSED, PRECISIONS, STAGES, default_stages, with_extra_passes
from recfx.pipeline import Pipeline, registered
from recfx.pipeline.validate import violations

#: Two passes in an order that makes the second useless, and the property that reports it.
REFUSED = [
    ("fuse-parallel-linears", "hoist-requests", "linears-joined"),
    ("fuse-lookups", "hoist-requests", "lookups-fused"),
    ("fuse-mlp", "hoist-requests", "linears-fused"),
    ("quantize-tables", "hoist-requests", "tables-quantised"),
    ("quantize-linears", "hoist-requests", "linears-quantised"),
    ("quantize-linears", "fold-affine", "linears-quantised"),
    ("quantize-linears", "fold-batchnorm", "linears-quantised"),
    ("quantize-tables", "fold-linear-into-table", "tables-quantised"),
    ("quantize-embeddings", "fold-affine", "scores-quantised"),
    ("binarize-embeddings", "narrow-last-position", "scores-quantised"),
    ("quantize-linears", "join-cross-experts", "linears-quantised"),
    ("quantize-linears", "fuse-mlp", "linears-quantised"),
    ("quantize-linears", "fuse-cross", "linears-quantised"),
    ("quantize-linears", "fuse-parallel-linears", "linears-quantised"),
    ("quantize-linears", "fuse-target-attention", "linears-quantised"),
    ("quantize-tables", "fuse-lookups", "tables-quantised"),
    ("quantize-tables", "form-bags", "tables-quantised"),
]


@pytest.mark.parametrize(("first", "second", "name"), REFUSED)
def test_an_order_that_defeats_a_pass_is_refused(first: str, second: str, name: str) -> None:
    (found,) = violations(Pipeline([first, second]).passes, {"functional"})
    assert f"{second} (number 2) must not run once the program is {name!r}" in found
    assert f"move it before {first} (number 1)" in found
    assert violations(Pipeline([second, first]).passes, {"functional"}) == []


def test_every_violation_is_listed_before_anything_runs() -> None:
    program = program_of(Case(lambda: Function(lambda m, x: x + 1), (torch.randn(3, 4),)))
    with pytest.raises(recfx.PipelineError) as caught:
        Pipeline("quantize-linears,fuse-mlp,fold-affine,hoist-requests").run(program)
    assert str(caught.value).count("must not run once") == 4
    assert "4 violation(s)" in str(caught.value)


def test_each_property_that_a_pass_forbids_or_avoids_is_established_by_one() -> None:
    specs = [cls.spec for cls in registered().values() if cls.__module__.startswith("recfx.passes.")]
    established = {name for spec in specs for name in spec.establishes}
    named = {name for spec in specs for name in spec.prefers | spec.avoids | spec.forbids | spec.invalidates}
    assert named <= established
    assert established - named <= {"hoisted"}


@pytest.mark.parametrize("name", sorted(n for n, c in registered().items() if c.__module__.startswith("recfx.passes.")))
def test_a_single_pass_validates_on_a_captured_program(name: str) -> None:
    cls = registered()[name]
    assert violations([cls()], {"functional"}, cls.spec.needs) == []


KINDS = [
    (requests, kernels, precision)
    for requests in (False, True)
    for kernels in (frozenset[str](), FUSED)
    for precision in (PRECISIONS if kernels else ["fp32"])
]


@pytest.mark.parametrize(("requests", "kernels", "precision"), KINDS)
def test_default_pipelines_validate_and_prefer_and_avoid_nothing_in_vain(
    requests: bool, kernels: frozenset[str], precision: str
) -> None:
    passes = with_extra_passes(default_stages(requests=requests, kernels=kernels, precision=precision), {}).passes
    assert violations(passes, {"functional"}) == []
    held = {"functional"}
    for item in passes:
        assert item.spec.prefers <= held, item
        assert not item.spec.avoids & held, item
        held = (held - item.spec.invalidates) | item.spec.establishes


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
@pytest.mark.parametrize("side", ["before", "after"])
def test_extra_passes_validate_at_every_stage(stage: str, side: str) -> None:
    for requests, kernels, precision in KINDS:
        stages = default_stages(requests=requests, kernels=kernels, precision=precision)
        if stage in [s.name for s in stages]:
            extra = with_extra_passes(stages, {f"{side}:{stage}": "fold-constants{max_growth_bytes=7}"})
            assert violations(extra.passes, {"functional"}) == []


def test_an_extra_pass_at_a_stage_where_it_comes_too_late_is_refused() -> None:
    with pytest.raises(recfx.PipelineError, match=r"hoist-requests .* move it before fuse-parallel-linears"):
        recfx.optimize(
            TinyCtr(), target="native", example_inputs=tiny_inputs(4), extra_passes={"after:mlp": "hoist-requests"}
        )


def test_a_pass_that_runs_unprepared_says_what_to_add() -> None:
    model = Function(
        lambda m, x: torch.square(x).flatten(1),
    )
    program = program_of(Case(lambda: model, (torch.randn(3, 4, 2),)))
    (record,) = Pipeline("fuse-mlp").run(program).records
    assert [m.reason for m in record.misses if m.rule == "order"] == [
        "the program is not 'canonical', which canonicalize establishes; add it before"
    ]
    records = Pipeline("canonicalize,fuse-mlp,fold-affine").run(program).records
    assert [m.reason for r in records for m in r.misses if m.rule == "order"] == [
        "the program is 'linears-fused' already; move the pass up"
    ]


def test_a_pass_that_invalidates_a_property_makes_room_for_its_maker() -> None:
    program = program_of(Case(lambda: Function(lambda m, x: x + 1), (torch.randn(3, 4),)))
    assert "lookups-fused" in Pipeline("form-bags,fuse-lookups").run(program).program.properties
    assert "lookups-fused" not in Pipeline("fuse-lookups,form-bags").run(program).program.properties
