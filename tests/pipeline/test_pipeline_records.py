"""What pipelines verify, record, leave out and say; declarations and data classes as they are declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import frozen_kit
import pytest
import torch
from pipeline_cases import ABS, NEG, RELU, TANH, chain, drop_double_relu, made, raises, spoil, targets

import recfx
import recfx.pipeline
from recfx.ir import Exactness, Level, Program
from recfx.ir.program import Applied
from recfx.passes import Canonicalize
from recfx.pipeline import (
    BisectResult,
    Dump,
    Instrument,
    Pass,
    PassContext,
    PassRecord,
    PassSpec,
    Pipeline,
    PrintAfter,
    Timing,
    run_pass,
)
from recfx.pipeline import pipeline as pipeline_module
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def test_declarations_have_these_defaults() -> None:
    spec = PassSpec("plain", "A pass.")
    assert spec.exactness is Exactness.EXACT
    assert spec.requires == {"functional"}
    assert not any((spec.forbids, spec.establishes, spec.invalidates, spec.preserves, spec.needs))
    assert (spec.changes_state, spec.idempotent, spec.mandatory) == (False, True, False)
    names = ("requires", "forbids", "establishes", "invalidates", "preserves", "needs")
    lists: dict[str, Any] = {name: ["examples"] for name in names}
    given = PassSpec("given", "A pass.", **lists)
    assert all(getattr(given, name) == frozenset({"examples"}) for name in names)
    assert all(type(getattr(given, name)) is frozenset for name in names)
    hash(given)
    with pytest.raises(recfx.PipelineError, match=r"unknown needs \['luck', 'time'\]"):
        PassSpec("given", "A pass.", needs=frozenset({"luck", "time", "labels"}))


@pytest.mark.parametrize("name", ["", "a_b", "Fold", "fold-", "-fold", "fold--it", "9-lives", "fold it"])
def test_names_of_passes_are_kebab_case(name: str) -> None:
    with pytest.raises(recfx.PipelineError, match="kebab-case"):
        PassSpec(name, "x")


def test_descriptions_are_frozen() -> None:
    Pipeline([drop_double_relu]).bisect(chain(RELU, RELU), lambda p: targets(p) == [RELU])
    assert frozen_kit.changeable(recfx.pipeline) == set()


@pytest.mark.parametrize(
    ("where", "alone", "needed", "text"),
    [
        ("", True, True, "rewrite 3: p / r at n"),
        ("head", True, True, "rewrite 3: p / r at n in module 'head'"),
        ("", False, True, "rewrite 3: p / r at n (it takes earlier rewrites to show)"),
        ("", True, False, "rewrite 3: p / r at n (later rewrites are bad as well)"),
        ("", False, False, "rewrite 3: p / r at n (it takes earlier rewrites to show; later rewrites are bad as well)"),
    ],
)
def test_a_culprit_is_described(where: str, alone: bool, needed: bool, text: str) -> None:
    assert str(BisectResult(Applied(3, "p", "r", "n", where), alone, needed, 9)) == text


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("last", [True, False])
def test_bisection_halves(count: int, last: bool) -> None:
    """Two runs for everything and nothing, about log2(rewrites) to search, one for the culprit, and two to judge it."""
    seen: list[list[Any]] = []
    worst = count if last else 1

    def bad(program: Program) -> bool:
        seen.append(targets(program))
        return targets(program)[worst - 1] is NEG

    result = Pipeline([spoil]).bisect(chain(*[TANH] * count), bad)
    assert (result.culprit.index, result.culprit.allowed, result.alone, result.needed) == (worst - 1, True, True, True)
    assert result.runs == len(seen)
    assert 5 <= len(seen) <= 5 + (count - 1).bit_length()
    first, second, *_, culprit, alone, needed = seen
    assert (first, second) == ([NEG] * count, [TANH] * count)
    assert culprit == [NEG] * worst + [TANH] * (count - worst)
    assert alone == [NEG if place == worst - 1 else TANH for place in range(count)]
    assert needed == [TANH if place == worst - 1 else NEG for place in range(count)]


def test_bisection_runs_without_verification_unless_asked() -> None:
    def lie(program: Program, ctx: PassContext) -> None:
        (node,) = ctx.nodes(RELU)
        if ctx.gate("lie", node):
            node.args = (program.placeholders()[0],)
            node.meta["val"] = node.meta["val"][:, :2]

    pipeline = Pipeline([made(lie)])
    assert pipeline.bisect(chain(TANH, RELU), lambda p: TANH not in targets(p)).culprit.rule == "lie"
    with pytest.raises(recfx.PassError, match="recorded as"):
        pipeline.bisect(chain(TANH, RELU), lambda p: TANH not in targets(p), verify=Level.META)


def test_pipelines_are_values() -> None:
    one, other = Pipeline("canonicalize"), Pipeline([Canonicalize])
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    assert one != Pipeline([])
    assert one != "canonicalize"
    assert repr(one) == "Pipeline('canonicalize')"
    both = one + Pipeline([spoil])
    assert (str(both), len(both), list(both)) == ("canonicalize,tanh-to-neg", 2, [*one, spoil])
    for wrong in (42, Pass, object):
        with pytest.raises((recfx.PipelineError, TypeError)):
            Pipeline([wrong])  # type: ignore[list-item]


def verified(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The names of the verifications that run from now on, and what the numeric one is asked."""
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
    """Operators that are run for their effect have no user."""

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
    assert result.program.notices == ("earlier", f"{miss.reason}; it was left out, and a reproducer is in {tmp_path}")
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
    assert caught.value.hint == f"re-run it alone with: python {tmp_path / 'run.py'}"
    assert caught.value.reproducer == str(tmp_path)


def record_of(seconds: float, verified_in: float, fired: int = 2) -> PassRecord:
    return PassRecord("text", "exact", fired, (), (1, 1), (0, 0), seconds, verified_in)


def test_instruments_write_what_was_recorded(tmp_path: Path) -> None:
    lines: list[str] = []
    every, some, timing = PrintAfter(lines.append), PrintAfter(lines.append, ["canonicalize"]), Timing()
    folder = tmp_path / "a" / "b"
    dump = Dump(folder)
    before, after, record = chain(RELU, RELU), chain(RELU), record_of(0.0123, 0.5)
    for index, item in enumerate((drop_double_relu, Canonicalize())):
        for instrument in (every, some, timing, dump):
            instrument.before_pass(index, item, before)
            instrument.after_pass(index, item, before, after if index == 0 else before, record)
    title = "# after {} (2 rewrites, 12.3 ms)\n"
    assert lines == [
        title.format("drop-double-relu") + str(after),
        title.format("canonicalize") + str(before),
        title.format("canonicalize") + str(before),
    ]
    assert timing.seconds == {"00-drop-double-relu": (0.0123, 0.5), "01-canonicalize": (0.0123, 0.5)}
    entry = {"run_s": 0.0123, "verify_s": 0.5, "rewrites": 2}
    text = (folder / "timing.json").read_text()
    assert json.loads(text) == {"00-drop-double-relu": entry, "01-canonicalize": entry}
    assert text.startswith('{\n "00-drop-double-relu": {\n  "run_s"')
    assert text.endswith("}\n")
    ends = ("after.txt", "before.txt", "diff")
    assert sorted(p.name for p in folder.glob("0*")) == [f"00-drop-double-relu.{end}" for end in ends]
    assert (folder / "00-drop-double-relu.before.txt").read_text() == f"{before}\n"
    assert (folder / "00-drop-double-relu.after.txt").read_text() == f"{after}\n"


def test_instruments_are_called_around_each_pass() -> None:
    calls: list[Any] = []

    class Watch(Instrument):
        def before_pass(self, index: int, item: Pass, program: Program) -> None:
            calls.append(("before", index, str(item), len(targets(program))))

        def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
            calls.append(("after", index, record.text, len(targets(before)), len(targets(after))))

    Pipeline(["canonicalize", drop_double_relu]).run(chain(RELU, RELU), instruments=[Watch(), Instrument()])
    assert calls == [
        ("before", 0, "canonicalize", 2),
        ("after", 0, "canonicalize", 2, 2),
        ("before", 1, "drop-double-relu", 2),
        ("after", 1, "drop-double-relu", 2, 1),
    ]
