"""`Road`: one capture, walked with several pipelines."""

from __future__ import annotations

import weakref

import torch
from models import TinyCtr, tiny_inputs

from recfx.capture import MAX_BATCH
from recfx.driver.build import open_road, stages_of
from recfx.driver.options import Options
from recfx.driver.road import Road
from recfx.pipeline import Pipeline


def road(model: TinyCtr) -> Road:
    options = Options("eager", Pipeline(), max_batch=MAX_BATCH, measure=False)
    with stages_of("TinyCtr", shown=False) as stages:
        return open_road(model, options, tiny_inputs(4), {}, weakref.ref(model), stages)


def test_each_walk_has_its_own_passes_and_changes_neither_the_capture_nor_the_model() -> None:
    model, given = TinyCtr(), tiny_inputs(7)
    own = road(model)
    text, want = str(own.captured), model(*given)
    plain = own.parts()
    folded = own.with_options(pipeline=Pipeline("canonicalize,fold-batchnorm")).parts()
    assert [record.text for record in plain.report.passes] == []
    assert sum(record.fired for record in folded.report.passes) > 0
    for parts in (plain, folded):
        torch.testing.assert_close(parts.entry(*given), want)
    assert str(own.captured) == text
    assert own.options.pipeline == Pipeline()


def test_passes_get_the_resources_of_the_options() -> None:
    own = road(TinyCtr())
    pruned = "canonicalize,prune-channels{importance=activation, round_to=1}"
    walked = own.with_options(pipeline=Pipeline(pruned), resources={"calibration": [tiny_inputs(50)]}).parts()
    assert walked.program.state_bytes() < own.captured.state_bytes()
    assert "calibration" in own.with_options(resources={"calibration": []}).resources


def test_the_seconds_of_the_stages_are_in_the_report() -> None:
    assert {"capture", "passes", "lowering"} <= road(TinyCtr()).parts().report.seconds.keys()
