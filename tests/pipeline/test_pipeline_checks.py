"""The verifications and records of pipelines after each pass, and the verifications that lenient runs omit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_cases import ABS, NEG, RELU, TANH, chain, made, raises, spoil, targets

import recfx
import recfx.pipeline
from recfx.ir import Exactness, Level, Program
from recfx.ir.program import Applied
from recfx.pipeline import (
    Pass,
    PassContext,
    Pipeline,
    run_pass,
)
from recfx.pipeline import pipeline as pipeline_module
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def verified(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records the names of the verifications from now on, and the arguments of the numeric one."""
    calls: list[Any] = []
    monkeypatch.setattr(pipeline_module, "verify_meta", lambda program: calls.append("meta"))
    monkeypatch.setattr(pipeline_module, "verify_structure", lambda program: calls.append("structure"))
    monkeypatch.setattr(
        pipeline_module,
        "verify_numeric",
        lambda before, after, exactness, *, special: calls.append((exactness, special)),
    )
    return calls


@pytest.mark.parametrize(
    ("level", "changed", "same"),
    [
        (Level.OFF, [], []),
        (Level.STRUCTURE, ["structure"], []),
        (Level.META, ["meta"], []),
        (Level.NUMERIC, ["meta", (Exactness.APPROX, True)], ["meta", (Exactness.APPROX, True)]),
    ],
)
def test_what_each_level_verifies(
    level: Level, changed: list[Any], same: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = verified(monkeypatch)
    for program, expected in ((chain(TANH), changed), (chain(RELU), same)):
        Pipeline([spoil]).run(program, verify=level)
        assert calls == expected
        calls.clear()
        run_pass(spoil, program, verify=level)
        assert calls == expected
        calls.clear()
    if level is Level.META:
        run_pass(spoil, chain(TANH))
        Pipeline([spoil]).run(chain(TANH))
        assert calls == ["meta", "meta"]


def test_special_rows_are_left_out_where_a_catalogue_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = verified(monkeypatch)
    for resources, special in ((None, True), ({}, True), ({"examples": []}, True), ({"catalogue": []}, False)):
        Pipeline([spoil]).run(chain(TANH), verify=Level.NUMERIC, resources=resources)
        assert calls.pop() == (Exactness.APPROX, special)


def test_what_is_recorded_of_a_pass() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    weight = b.state("w", torch.ones(4, 4))
    program = b.build(b.call(TANH, b.call(aten.linear.default, b.inputs["x"], weight)))

    def forget(inner: Program, ctx: PassContext) -> None:
        (node,) = ctx.nodes(aten.linear.default)
        ctx.miss("look", node, "for a test")
        if ctx.gate("forget", node):
            ctx.replace(node, inner.placeholders()[0])

    item = made(forget, exactness=Exactness.APPROX, establishes={"short"}, invalidates={"long"})
    program.properties |= {"long"}
    program.history = (Applied(0, "earlier", "r", "n", ""),)
    result = Pipeline([item, made(name="nothing")]).run(program)
    record, nothing = result.records
    assert (record.text, record.exactness, record.fired) == ("made", "approx", 1)
    assert [m.reason for m in record.misses] == ["for a test"]
    assert (record.operators, record.state_bytes) == ((2, 1), (64, 0))
    assert (nothing.operators, nothing.state_bytes, nothing.fired) == ((1, 1), (0, 0), 0)
    for held in result.records:
        assert 0 < held.seconds < 60
        assert 0 <= held.verify_seconds < 60
    assert result.program.properties == {"functional", "short"}
    assert result.program.history == (*program.history, *result.rewrites)
    assert [r.rule for r in result.rewrites] == ["forget"]


def test_passes_see_no_dead_users_and_leave_none() -> None:
    program = chain(RELU, TANH)
    relu, tanh = (n for n in program.graph.nodes if n.op == "call_function")
    with program.graph.inserting_after(relu):
        dead = program.graph.call_function(NEG, (relu,))
    dead.meta["val"] = relu.meta["val"]
    seen: list[int] = []

    def look(inner: Program, ctx: PassContext) -> None:
        (node,) = ctx.nodes(RELU)
        seen.append(len(node.users))
        with ctx.before(node):
            ctx.call(ABS, node.args[0])

    after, record = run_pass(made(look), program)
    assert seen == [1]
    assert targets(after) == [RELU, TANH]
    assert record.operators[1] == 2
    assert targets(program) == [RELU, NEG, TANH]
    del tanh


def test_a_change_of_what_nothing_reads_is_kept() -> None:
    """Operators that run for their effect have no user."""

    def guard(program: Program, ctx: PassContext) -> None:
        node = next(iter(program.graph.find_nodes(op="output")))
        with ctx.before(node):
            always = ctx.constant("always", torch.tensor(True))
            ctx.call(aten._assert_async.default, always)

    after, record = run_pass(made(guard), chain(RELU))
    assert targets(after) == [RELU, aten._assert_async.default]
    assert record.fired == 0


def test_weights_that_were_made_without_gradients_for_good() -> None:
    with torch.inference_mode():
        weight = torch.ones(4, 4)
    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(TANH, b.call(aten.linear.default, b.inputs["x"], b.state("w", weight))))
    assert NEG in targets(run_pass(spoil, program, verify=Level.OFF)[0])


def test_tensors_that_a_pass_wrote_to_are_named() -> None:
    def write(program: Program, ctx: PassContext) -> None:
        for node in ctx.nodes(aten.linear.default):
            tensor = ctx.tensor(node.args[1])
            if tensor is not None and tensor.shape[0] == 3:
                tensor.zero_()

    b = GraphBuilder({"x": ("batch", 4)})
    first = b.call(aten.linear.default, b.inputs["x"], b.state("written", torch.ones(3, 4)))
    program = b.build(first, b.call(aten.linear.default, b.inputs["x"], b.state("kept", torch.ones(2, 4))))
    with pytest.raises(recfx.PassError, match=r"made wrote to existing state in place\n  where: written\n"):
        run_pass(made(write), program)


def test_lenient_runs_leave_out_what_fails(tmp_path: Path) -> None:
    program = chain(RELU, TANH)
    program.notices = ("earlier",)
    result = Pipeline([raises(ValueError("odd")), spoil]).run(program, lenient=True, reproducer=tmp_path)
    first, second = result.records
    assert (first.text, first.exactness, first.fired) == ("raises", "exact", 0)
    assert (first.operators, first.state_bytes, first.seconds, first.verify_seconds) == ((2, 2), (0, 0), 0.0, 0.0)
    (miss,) = first.misses
    assert (miss.pass_name, miss.rule, miss.node, miss.where) == ("raises", "whole pass", "", "")
    assert miss.reason == "pass raises (number 1) failed: ValueError: odd"
    assert second.fired == 1
    assert targets(result.program) == [RELU, NEG]
    assert result.program.notices == (
        "earlier",
        f"{miss.reason}; the pass was left out, and a reproducer is in {tmp_path}",
    )
    assert program.notices == ("earlier",)
    assert (tmp_path / "run.py").is_file()


@pytest.mark.parametrize(
    ("item", "lenient"),
    [
        (raises(ValueError("odd")), False),
        (raises(ValueError("odd"), mandatory=True), True),
        (raises(recfx.PassError("on purpose", where="there")), True),
        (raises(recfx.PipelineError("on purpose", where="there")), True),
    ],
)
def test_what_is_raised_all_the_same(item: Pass, lenient: bool, tmp_path: Path) -> None:
    with pytest.raises(recfx.PassError) as caught:
        Pipeline(["canonicalize", item]).run(chain(RELU), lenient=lenient, reproducer=tmp_path)
    what = "ValueError: odd" if "odd" in str(caught.value) else "on purpose"
    assert caught.value.what == f"pass raises (number 2) failed: {what}"
    assert caught.value.where == (None if what == "ValueError: odd" else "there")
    assert caught.value.hint is not None  # the class is made by a call of `type`, which no file holds
    assert caught.value.hint.startswith(f"read {tmp_path}, which does not run alone: ")
    assert (tmp_path / "source-not-saved.txt").is_file()
    assert caught.value.reproducer == str(tmp_path)
