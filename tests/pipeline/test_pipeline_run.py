"""Running pipelines: isolation, records, gate, bisection, rewrites, instruments."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_cases import ABS, NEG, RELU, TANH, chain, drop_double_relu, spoil, targets

import recfx
from recfx.ir import Level, Program, verify_meta
from recfx.pipeline import (
    Dump,
    Gate,
    Miss,
    Pass,
    PassContext,
    PassSpec,
    Pipeline,
    PrintAfter,
    Timing,
    apply_rules,
    rewrite,
)
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def test_a_rewrite_fires_records_and_leaves_its_input_alone() -> None:
    program = chain(RELU, RELU, RELU, TANH)
    before = str(program)
    result = Pipeline([drop_double_relu]).run(program, verify=Level.NUMERIC)
    assert targets(result.program) == [RELU, TANH]
    assert str(program) == before
    (record,) = result.records
    assert (record.fired, record.operators) == (2, (4, 2))
    assert [m.reason for m in record.misses] == ["its input is not a relu"]
    assert [r.rule for r in result.rewrites] == ["drop-double-relu"] * 2
    assert result.program.history == result.rewrites
    assert drop_double_relu.spec.summary == "relu(relu(x)) is relu(x)."


def test_what_a_missing_or_refused_rewrite_inserted_is_taken_back() -> None:
    @rewrite(RELU)
    def hesitant(node: Any, ctx: PassContext) -> Any:
        """Inserts a node, then declines the rewrite."""
        ctx.call(TANH, node.args[0])
        return Miss("after all not")

    program = chain(RELU)
    assert targets(Pipeline([hesitant]).run(program).program) == [RELU]
    refused = Pipeline([spoil]).run(chain(TANH, TANH), gate=Gate(lambda i: False))
    assert targets(refused.program) == [TANH, TANH]
    assert [r.allowed for r in refused.rewrites] == [False, False]


def test_a_refused_rewrite_keeps_its_number_over_many_sweeps() -> None:
    result = Pipeline([drop_double_relu]).run(chain(RELU, RELU, RELU, RELU), gate=Gate(lambda i: i != 0))
    assert [r.index for r in result.rewrites] == list(range(len(result.rewrites)))
    assert sum(not r.allowed for r in result.rewrites) == 1


def test_a_rule_that_never_ends_and_one_that_returns_nonsense() -> None:
    @rewrite(RELU)
    def endless(node: Any, ctx: PassContext) -> Any:
        """Replaces its own result without end."""
        return ctx.call(RELU, node.args[0])

    @rewrite(RELU)
    def nonsense(node: Any, ctx: PassContext) -> Any:
        """Returns a string."""
        return "relu"

    with pytest.raises(recfx.PassError, match="still fires"):
        Pipeline([endless]).run(chain(RELU))
    with pytest.raises(recfx.PassError, match="the rule returned str"):
        Pipeline([nonsense]).run(chain(RELU))


def test_bisection_finds_the_rewrite() -> None:
    program = chain(RELU, RELU, TANH, ABS, TANH, ABS, TANH)

    def second_tanh_is_spoilt(candidate: Program) -> bool:
        found = targets(candidate)
        return NEG in found[found.index(ABS) :]

    result = Pipeline([drop_double_relu, spoil]).bisect(program, second_tanh_is_spoilt)
    assert (result.culprit.pass_name, result.culprit.index) == ("tanh-to-neg", 2)
    assert result.alone
    assert not result.needed  # the third tanh is wrong as well
    assert "later rewrites are bad as well" in str(result)
    assert result.runs <= 9


def test_bisection_tells_when_two_rewrites_are_needed_together() -> None:
    result = Pipeline([spoil]).bisect(chain(TANH, TANH), lambda p: targets(p).count(NEG) == 2)
    assert (result.culprit.index, result.alone, result.needed) == (1, False, True)
    assert "earlier rewrites" in str(result)
    with pytest.raises(recfx.PipelineError, match="not bad"):
        Pipeline([spoil]).bisect(chain(TANH), lambda p: False)
    with pytest.raises(recfx.PipelineError, match="without any rewrite"):
        Pipeline([spoil]).bisect(chain(TANH), lambda p: True)


def test_mandatory_passes_run_whole_under_a_gate() -> None:
    class Must(Pass):
        spec = PassSpec("must", "Always.", mandatory=True)

        def run(self, program: Program, ctx: PassContext) -> None:
            apply_rules([("drop", (RELU,), type(drop_double_relu).rule)], ctx)

    assert targets(Pipeline([Must()]).run(chain(RELU, RELU), gate=Gate(lambda i: False)).program) == [RELU]


def test_analyses_are_kept_until_a_rewrite_unless_preserved() -> None:
    calls: list[str] = []

    def count_nodes(program: Program) -> int:
        calls.append("count")
        return len(program.graph.nodes)

    def count_inputs(program: Program) -> int:
        calls.append("inputs")
        return len(program.placeholders())

    class Ask(Pass):
        spec = PassSpec("ask", "Asks.", preserves=frozenset({"count_inputs"}))

        def run(self, program: Program, ctx: PassContext) -> None:
            for _ in range(2):
                ctx.analysis(count_nodes)
                ctx.analysis(count_inputs)
            assert ctx.gate("nothing", ctx.nodes(RELU)[0])
            ctx.analysis(count_nodes)
            ctx.analysis(count_inputs)

    Pipeline([Ask()]).run(chain(RELU))
    assert sorted(calls) == ["count", "count", "inputs"]


def test_an_analysis_may_be_a_partial_function() -> None:
    calls: list[int] = []

    def count(program: Program, factor: int) -> int:
        calls.append(factor)
        return factor * len(program.graph.nodes)

    class Ask(Pass):
        spec = PassSpec("ask", "Asks.", preserves=frozenset({"count"}))

        def run(self, program: Program, ctx: PassContext) -> None:
            kept = functools.partial(count, factor=2)
            assert ctx.analysis(kept) == ctx.analysis(kept) == 2 * len(program.graph.nodes)
            assert ctx.gate("nothing", ctx.nodes(RELU)[0])
            ctx.analysis(kept)

    Pipeline([Ask()]).run(chain(RELU))
    assert calls == [2]

    class Forget(Ask):
        spec = PassSpec("forget", "Asks.")

    Pipeline([Forget()]).run(chain(RELU))
    assert calls == [2, 2, 2]


def test_misses_of_several_rounds_of_rules_are_all_kept() -> None:
    def never(node: Any, ctx: PassContext) -> Any:
        return Miss("never")

    def drop(node: Any, ctx: PassContext) -> Any:
        return node.args[0]

    class Rounds(Pass):
        spec = PassSpec("rounds", "Applies rules in rounds.", exactness=recfx.Exactness.APPROX)

        def run(self, program: Program, ctx: PassContext) -> None:
            ctx.miss("before", ctx.nodes(RELU)[0], "noted before")
            apply_rules([("first", (RELU,), never), ("drop", (TANH,), drop)], ctx)
            apply_rules([("second", (NEG,), never)], ctx)

    (record,) = Pipeline([Rounds()]).run(chain(RELU, TANH, NEG), verify=Level.META).records
    assert [(m.rule, m.reason) for m in record.misses] == [
        ("before", "noted before"), ("first", "never"), ("second", "never")
    ]  # fmt: skip


def test_validation_happens_before_anything_runs() -> None:
    class Late(Pass):
        spec = PassSpec("late", "Requires a property that no pass establishes.", requires=frozenset({"magic"}))

        def run(self, program: Program, ctx: PassContext) -> None:
            raise AssertionError("ran")

    with pytest.raises(recfx.PipelineError, match="requires 'magic'"):
        Pipeline([drop_double_relu, Late()]).run(chain(RELU))


def test_instruments(tmp_path: Path) -> None:
    lines: list[str] = []
    timing = Timing()
    Pipeline(["canonicalize", drop_double_relu]).run(
        chain(RELU, RELU), instruments=[Dump(tmp_path), PrintAfter(lines.append, ["drop-double-relu"]), timing]
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "01-drop-double-relu.after.txt",
        "01-drop-double-relu.before.txt",
        "01-drop-double-relu.diff",
        "timing.json",
    ]
    assert json.loads((tmp_path / "timing.json").read_text())["01-drop-double-relu"]["rewrites"] == 1
    assert len(lines) == 1
    assert "aten.relu" in lines[0]
    assert list(timing.seconds) == ["00-canonicalize", "01-drop-double-relu"]
    assert "- " in (tmp_path / "01-drop-double-relu.diff").read_text()


def test_values_are_recomputed_as_far_as_a_replacement_changes_their_layout() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    plain = b.call(aten.clone.default, b.call(NEG, b.call(TANH, b.inputs["x"])), memory_format=torch.contiguous_format)
    program = b.build(b.call(RELU, plain))
    ctx = PassContext(program, PassSpec("turn", "Other strides."), Gate())
    (node,), (negated,), (last,) = ctx.nodes(TANH), ctx.nodes(NEG), ctx.nodes(RELU)
    recorded = last.meta["val"]
    with ctx.before(node):
        turned = ctx.call(aten.contiguous.default, ctx.call(aten.transpose.int, node.args[0], 0, 1))
        ctx.replace(node, ctx.call(aten.transpose.int, turned, 0, 1))
    assert str(negated.meta["val"].stride(0)) == "1"
    assert last.meta["val"] is recorded
    verify_meta(program)


def test_a_replacement_of_another_dtype_reaches_everything_behind_it() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(RELU, b.call(NEG, b.call(TANH, b.inputs["x"]))))
    ctx = PassContext(program, PassSpec("double", "Another dtype."), Gate())
    (node,) = ctx.nodes(TANH)
    with ctx.before(node):
        ctx.replace(node, ctx.call(aten.to.dtype, node.args[0], torch.float64))
    assert [n.meta["val"].dtype for n in program.graph.nodes if n.target in (NEG, RELU)] == [torch.float64] * 2
    verify_meta(program)
