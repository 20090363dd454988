"""An order that cannot work is refused with one that does."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_cases import chain

import recfx
from recfx.pipeline import Pass, PassSpec, Pipeline, registered
from recfx.pipeline.validate import violations

BUILT_IN = sorted(
    name for name, c in registered().items() if c.__module__.startswith("recfx.passes.") and not c.spec.needs
)


def suggested(pipeline: Pipeline) -> str:
    with pytest.raises(recfx.PipelineError) as caught:
        pipeline.run(chain())
    assert caught.value.hint is not None
    return caught.value.hint


@pytest.mark.parametrize(
    ("written", "runs"),
    [
        ("quantize-tables,fuse-lookups", "fuse-lookups,quantize-tables"),
        ("quantize-tables{bits=4},form-bags,fuse-lookups", "form-bags,fuse-lookups,quantize-tables{bits=4}"),
        ("canonicalize,fuse-mlp,hoist-requests", "canonicalize,hoist-requests,fuse-mlp"),
        ("merge-tables,merge-tables,canonicalize", "merge-tables,canonicalize"),
    ],
)
def test_the_order_that_runs_is_named(written: str, runs: str) -> None:
    assert suggested(Pipeline(written)) == f"an order that runs: {runs}"
    Pipeline(runs).run(chain())


@given(st.lists(st.sampled_from(BUILT_IN), min_size=2, max_size=7, unique=True))
@settings(max_examples=60, deadline=None)
def test_the_named_order_of_built_in_passes_validates(names: list[str]) -> None:
    passes = Pipeline(names).passes
    if not violations(passes, {"functional"}):
        return
    match = re.fullmatch(r"an order that runs: (.+)", suggested(Pipeline(names)))
    assert match is not None
    order = Pipeline(match[1])
    assert sorted(map(str, order)) == sorted(map(str, passes))
    assert violations(order.passes, {"functional"}) == []


def made(name: str, **spec: frozenset[str]) -> Pass:
    cls = type(name, (Pass,), {"spec": PassSpec(name, "For a test.", **spec), "run": lambda self, program, ctx: None})
    item: Pass = cls()
    return item


def test_a_pass_that_establishes_what_is_missing_is_added() -> None:
    assert (
        suggested(Pipeline([made("wants", requires=frozenset({"canonical"}))]))
        == "an order that runs: canonicalize,wants"
    )


def test_passes_that_exclude_each_other() -> None:
    one = made("one", establishes=frozenset({"a"}), forbids=frozenset({"b"}))
    other = made("other", establishes=frozenset({"b"}), forbids=frozenset({"a"}))
    assert "remove one of the passes" in suggested(Pipeline([one, other]))


def test_a_resource_and_an_order_are_both_named() -> None:
    hint = suggested(Pipeline("quantize-tables,fuse-lookups,tabulate-towers"))
    assert hint.startswith("pass constant_inputs= and catalogue=True to optimize; an order that runs: ")
