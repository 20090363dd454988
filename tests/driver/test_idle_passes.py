"""A pipeline in which no pass changed the model says so, and why."""

from __future__ import annotations

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.capture import capture
from recfx.driver.idle_passes import idle_passes
from recfx.pipeline import Pipeline


def notices(pipeline: str | None) -> list[str]:
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), pipeline=pipeline, measure=False)
    return [notice for notice in fast.report.notices if "changed nothing" in notice]


def test_a_pass_without_its_operators_gives_its_reason() -> None:
    (found,) = notices("quantize-tables")
    assert found.startswith("quantize-tables changed nothing: the lookup is not grouped; run fuse-lookups before (at ")


def test_every_pass_has_a_notice() -> None:
    found = notices("quantize-tables{bits=4},fuse-fm,quantize-linears")
    assert [text.partition(" ")[0] for text in found] == ["quantize-tables{bits=4}", "fuse-fm", "quantize-linears"]
    assert "which canonicalize establishes" in found[1]
    assert "run fuse-mlp before" in found[2]


@pytest.mark.parametrize("pipeline", [None, "canonicalize,quantize-tables", "fuse-lookups,quantize-tables"])
def test_a_pipeline_that_changes_something_has_none(pipeline: str | None) -> None:
    assert notices(pipeline) == []


def test_the_notices_are_part_of_the_printed_report() -> None:
    torch.manual_seed(0)
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), pipeline="fuse-fm", measure=False)
    assert "note: fuse-fm changed nothing: the program is not 'canonical'" in str(fast.report)


def test_a_pass_without_a_reason_says_that_nothing_fits() -> None:
    program = capture(TinyCtr(), tiny_inputs(4))
    result = Pipeline("join-cross-experts").run(Pipeline("canonicalize").run(program).program)
    assert idle_passes(result) == ("join-cross-experts changed nothing: the model holds no operator that it rewrites",)
