"""Running pipelines: isolation, records, gate, bisection, rewrites, instruments, reproducers."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import recfx
from recfx.ir import Level, Program, same_graph
from recfx.passes import DEFAULT_PIPELINE
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
from recfx.pipeline.reproducer import read_reproducer
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def chain(*targets: Any) -> Program:
    """x -> target -> target ... -> out."""
    b = GraphBuilder({"x": ("batch", 4)})
    node = b.inputs["x"]
    for target in targets:
        node = b.call(target, node)
    return b.build(node)


def targets(program: Program) -> list[Any]:
    return [n.target for n in program.graph.nodes if n.op == "call_function"]


RELU, TANH, NEG, ABS = aten.relu.default, aten.tanh.default, aten.neg.default, aten.abs.default


@rewrite(RELU)
def drop_double_relu(node: Any, ctx: PassContext) -> Any:
    """relu(relu(x)) is relu(x)."""
    inner = node.args[0]
    return inner if inner.target is RELU else Miss("its input is not a relu", inner)


@rewrite(TANH, exactness=recfx.Exactness.APPROX, name="tanh-to-neg")
def spoil(node: Any, ctx: PassContext) -> Any:
    """Wrong on purpose, and says so."""
    return ctx.call(NEG, node.args[0])


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
        """Inserts, then thinks better of it."""
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
        """Replaces itself for ever."""
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
    assert not result.needed  # the third tanh is spoilt as well
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
        spec = PassSpec("late", "Needs what nobody gives.", requires=frozenset({"magic"}))

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


def test_a_wrong_exact_pass_is_caught_with_a_reproducer_that_runs(tmp_path: Path) -> None:
    (tmp_path / "my_passes.py").write_text(
        "import torch\n"
        "from recfx.pipeline import Pass, PassSpec\n"
        "class Spoil(Pass):\n"
        "    spec = PassSpec('spoil', 'Says it is exact.')\n"
        "    def run(self, program, ctx):\n"
        "        for node in ctx.nodes(torch.ops.aten.tanh.default):\n"
        "            if ctx.gate('spoil', node):\n"
        "                with ctx.before(node):\n"
        "                    new = ctx.call(torch.ops.aten.neg.default, node.args[0])\n"
        "                ctx.replace(node, new)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from my_passes import Spoil  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    program = chain(RELU, TANH)
    with pytest.raises(recfx.PassError, match=r"pass spoil \(number 2\) failed: differs by") as caught:
        Pipeline(["canonicalize", Spoil()]).run(program, verify=Level.NUMERIC, reproducer=tmp_path / "again")
    folder = Path(str(caught.value.reproducer))
    assert same_graph(read_reproducer(folder), program) is None
    assert torch.equal(read_reproducer(folder).example[0], program.example[0])
    root = str(Path(recfx.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, str(folder / "run.py")],
        env={"PYTHONPATH": f"{root}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "pass spoil (number 1) failed: differs by" in run.stderr


@pytest.mark.parametrize("verify", list(Level))
def test_the_default_pipeline_runs_at_every_level(verify: Level) -> None:
    result = Pipeline(DEFAULT_PIPELINE).run(chain(RELU, TANH, aten.alias.default), verify=verify)
    assert targets(result.program) == [RELU, TANH]
    assert "canonical" in result.program.properties


def test_a_pass_that_leaves_a_wrong_shape_on_record_is_caught() -> None:
    class Lies(Pass):
        spec = PassSpec("lies", "Records a wrong shape.")

        def run(self, program: Program, ctx: PassContext) -> None:
            (node,) = ctx.nodes(RELU)
            assert ctx.gate("lie", node)
            node.args = (ctx.program.placeholders()[0],)
            node.meta["val"] = node.meta["val"][:, :2]

    with pytest.raises(recfx.PassError, match="recorded as"):
        Pipeline([Lies()]).run(chain(TANH, RELU))


def test_a_pass_that_writes_to_state_in_place_is_caught() -> None:
    class Writes(Pass):
        spec = PassSpec("writes", "Edits a weight where it is.")

        def run(self, program: Program, ctx: PassContext) -> None:
            weight = ctx.tensor(ctx.nodes(aten.linear.default)[0].args[1])
            assert weight is not None
            with torch.no_grad():
                weight.mul_(2)

    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.randn(3, 4))))
    with pytest.raises(recfx.PassError, match="in place"):
        Pipeline([Writes()]).run(program)


def test_what_skips_the_gate_is_verified_all_the_same() -> None:
    class Sneaks(Pass):
        spec = PassSpec("sneaks", "Rewrites without asking, and records a wrong shape.")

        def run(self, program: Program, ctx: PassContext) -> None:
            (node,) = ctx.nodes(RELU)
            node.args = (program.placeholders()[0],)
            node.meta["val"] = node.meta["val"][:, :2]

    with pytest.raises(recfx.PassError, match="recorded as"):
        Pipeline([Sneaks()]).run(chain(TANH, RELU))
