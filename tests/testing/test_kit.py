"""The testing kit makes valid programs of every kind, quickly, and finds and shrinks faults."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

import recfx
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ir.numeric import same_bits
from recfx.ir.printer import operator_name
from recfx.ir.rebuild import from_json
from recfx.ir.serialize import to_json
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pass, Pipeline, PipelineResult, property_check, registered
from recfx.runtime import flat_function
from recfx.testing import (
    GraphBuilder,
    assert_pass_preserves,
    assert_same_graph,
    batch_sizes,
    pass_order_machine,
    pipelines,
    rec_graphs,
    tensors_for,
)
from recfx.testing.steps import STEPS

aten = torch.ops.aten
#: Other tests register passes of their own.
BUILT_IN = sorted(name for name, cls in registered().items() if cls.__module__.startswith("recfx.passes."))
RELAXED = settings(suppress_health_check=list(HealthCheck), deadline=None)


def operators(program: Program) -> list[Any]:
    return [n for n in program.graph.nodes if n.op == "call_function"]


@RELAXED
@given(program=rec_graphs(), data=st.data())
def test_programs_verify_and_run_at_any_batch(program: Program, data: st.DataObject) -> None:
    verify_meta(program)
    batch = data.draw(batch_sizes())
    leaves = data.draw(tensors_for(program, batch=batch))
    assert all(leaf.shape[0] == batch for leaf in leaves)
    outputs = program.run(leaves)
    assert all(same_bits(a, b) for a, b in zip(outputs, flat_function(program)(*leaves), strict=True))


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"twin"}))
def test_every_step_can_be_asked_for(step: str) -> None:
    found: list[Any] = []

    @settings(RELAXED, max_examples=4, database=None, derandomize=True)
    @given(rec_graphs(steps=[step], max_steps=3))
    def generate(program: Program) -> None:
        program.run(program.example)
        found.extend(node.target for node in operators(program))

    generate()
    assert found
    assert set(found) & STEPS[step].operators


@RELAXED
@given(program=rec_graphs())
def test_programs_survive_saving(program: Program) -> None:
    document, tensors = to_json(program)
    again = from_json(json.loads(json.dumps(document)), tensors, program.example)
    assert_same_graph(again, program)
    verify_numeric(program, again, Exactness.EXACT)


@RELAXED
@given(program=rec_graphs(), pipeline=pipelines())
def test_legal_pipelines_keep_the_meaning(program: Program, pipeline: Pipeline) -> None:
    result: PipelineResult = pipeline.run(program)
    classes = [p.spec.exactness for p in pipeline] or [Exactness.EXACT]
    verify_numeric(program, result.program, max(classes, key=list(Exactness).index))
    assert Pipeline(str(pipeline)) == pipeline


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_passes_keep_their_declarations(name: str) -> None:
    assert_pass_preserves(name, max_examples=9)


@pytest.mark.nightly
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_passes_on_many_programs(name: str) -> None:
    assert_pass_preserves(name, max_examples=3000)


def test_passes_in_any_legal_order() -> None:
    machine = pass_order_machine(DEFAULT_PIPELINE.split(","))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=6, stateful_step_count=4, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@recfx.rewrite(aten.sub.Tensor)
def swap_sub(node: Any, ctx: Any) -> Any:
    """Wrong on purpose: a - b is not b - a."""
    if isinstance(node.args[0], torch.fx.Node) and isinstance(node.args[1], torch.fx.Node) and "wrong" not in node.meta:
        new = ctx.call(aten.sub.Tensor, node.args[1], node.args[0])
        new.meta["wrong"] = True
        return new
    return recfx.Miss("done")


class FixBatch(Pass):
    """Wrong on purpose: right only for the example batch."""

    spec = recfx.PassSpec("fix-batch", "Expands by the example's batch.")

    def run(self, program: Program, ctx: Any) -> None:
        rows = program.example[0].shape[0]
        for node in ctx.nodes(aten.relu.default):
            with ctx.before(node):
                zeros = ctx.call(aten.zeros.default, [rows, node.meta["val"].shape[1]])
                if ctx.gate("fix", node):
                    ctx.replace(node, ctx.call(aten.maximum.default, node.args[0], zeros))


@recfx.rewrite(aten.relu.default)
def forget_relu(node: Any, ctx: Any) -> Any:
    """Wrong on purpose."""
    return node.args[0]


@pytest.mark.parametrize("wrong", [swap_sub, FixBatch(), forget_relu], ids=str)
def test_a_wrong_pass_is_found_and_shrunk_to_a_few_operators(wrong: Pass) -> None:
    seen: list[Program] = []

    def breaks(program: Program) -> bool:
        try:
            assert_pass_preserves(wrong, program)
        except AssertionError:
            seen.append(program)
            return True
        return False

    graphs = rec_graphs(steps=["relu", "sub", "add", "mul", "linear", "embedding"], max_steps=6)
    shrinking = (Phase.generate, Phase.shrink)  # whatever the profile leaves out
    found = settings(RELAXED, max_examples=300, database=None, derandomize=True, phases=shrinking)
    smallest = find(graphs, breaks, settings=found)
    assert len(operators(smallest)) <= 3, str(smallest)
    assert len(operators(smallest)) <= min(len(operators(program)) for program in seen)


def test_a_declaration_that_is_too_strong_is_found() -> None:
    class Unsteady(Pass):
        spec = recfx.PassSpec("unsteady", "Adds an alias at every run, and says it is idempotent.")

        def run(self, program: Program, ctx: Any) -> None:
            for node in ctx.nodes(aten.sigmoid.default):
                if ctx.gate("add", node):
                    with ctx.graph.inserting_after(node):
                        extra = ctx.graph.call_function(aten.alias.default, (node,))
                    extra.meta = dict(node.meta)
                    node.replace_all_uses_with(extra, delete_user_cb=lambda user, extra=extra: user is not extra)

    with pytest.raises(AssertionError, match="idempotent"):
        assert_pass_preserves(Unsteady())


def made(name: str, run: Any = None, **spec: Any) -> Pass:
    """A pass that does nothing, or calls `run`."""
    declared = recfx.PassSpec(name, "For a test.", **spec)
    cls = type("Made", (Pass,), {"spec": declared, "run": run or (lambda self, program, ctx: None)})
    return cls()  # type: ignore[no-any-return]


def no_op() -> Program:
    b = GraphBuilder({"x": ("batch", 4)})
    return b.build(b.call(aten.tanh.default, b.call(aten.reshape.default, b.inputs["x"], [-1, 4])))


def test_what_a_pass_establishes_is_looked_at() -> None:
    with pytest.raises(AssertionError, match="does not establish 'canonical': canonicalize would still rewrite"):
        assert_pass_preserves(made("pretend", establishes={"canonical"}), no_op())
    assert_pass_preserves("canonicalize", no_op())
    with pytest.raises(recfx.PipelineError, match="the property 'polished' has no check"):
        assert_pass_preserves(made("polish", establishes={"polished"}), no_op())


def test_what_a_pass_requires_is_not_given_away() -> None:
    seen: list[bool] = []

    def look(self: Pass, program: Program, ctx: Any) -> None:
        before = [n.target for n in ctx.nodes()]
        (once,) = Pipeline(["canonicalize"]).run(program).records
        seen.append(once.fired == 0)
        assert before == [n.target for n in ctx.nodes()]

    assert_pass_preserves(made("look", look, requires={"canonical"}), max_examples=20)
    assert seen
    assert all(seen)
    with pytest.raises(AssertionError, match="requires 'canonical'"):
        assert_pass_preserves(made("look", look, requires={"canonical"}), no_op())
    with pytest.raises(AssertionError, match="no registered pass establishes"):
        assert_pass_preserves(made("look", requires={"polished"}))
    with pytest.raises(AssertionError, match="must not run once"):
        assert_pass_preserves(made("look", forbids={"functional"}), no_op())


def test_a_pipeline_is_held_to_all_its_declarations() -> None:
    assert_pass_preserves(Pipeline("canonicalize,merge-duplicates"), max_examples=10)
    assert_pass_preserves("canonicalize,merge-duplicates", no_op())
    assert_pass_preserves(Pipeline([]), no_op())
    b = GraphBuilder({"x": ("batch", 4)})
    negative = b.build(b.call(aten.relu.default, b.inputs["x"]))
    with pytest.raises(AssertionError, match="forget-relu breaks this program"):
        assert_pass_preserves(Pipeline(["canonicalize", forget_relu]), negative)


def test_a_property_has_one_meaning() -> None:
    with pytest.raises(recfx.PipelineError, match="has a check already"):
        property_check("canonical")(lambda program: None)


def test_dimensions_besides_the_batch() -> None:
    b = GraphBuilder({"x": ("batch", "length", 4), "y": ("length", 4)})
    program = b.build(b.call(aten.add.Tensor, b.inputs["x"], b.inputs["y"]))
    assert program.signature.dims == {"batch": (1, 65536), "length": (1, None)}
    batch, length, _ = program.example[0].shape
    assert program.example[1].shape == (length, 4)
    assert batch != length  # so that the two are not confused
    verify_meta(program)
    out = program(torch.ones(2, 6, 4), torch.ones(6, 4))
    assert torch.equal(out, torch.full((2, 6, 4), 2.0))
    verify_numeric(program, Pipeline("canonicalize").run(program).program, Exactness.EXACT)


def test_sizes_made_of_dimensions() -> None:
    b = GraphBuilder({"values": (("values",), torch.int64), "offsets": (("batch + 1",), torch.int64)})
    program = b.build(b.call(aten.neg.default, b.inputs["offsets"]))
    assert set(program.signature.dims) == {"batch", "values"}
    assert program.example[1].shape == (4,)


def test_builder_and_same_graph() -> None:
    def build(order: tuple[str, str], number: float = 2.0) -> Program:
        b = GraphBuilder({"x": ("batch", 4), "ids": (("batch",), torch.int64)})
        parts = {}
        for name in order:
            if name == "scale":
                parts[name] = b.call(aten.mul.Tensor, b.inputs["x"], number)
            else:
                parts[name] = b.call(aten.embedding.default, b.state("t", torch.ones(3, 4)), b.inputs["ids"])
        return b.build(b.call(aten.add.Tensor, parts["scale"], parts["look"]))

    first, other_order = build(("scale", "look")), build(("look", "scale"))
    assert_same_graph(first, other_order)
    assert same_graph(first, build(("scale", "look"), 3.0)) is not None
    with pytest.raises(AssertionError, match="differ"):
        assert_same_graph(first, build(("scale", "look"), 3.0))
    assert Counter(operator_name(n.target) for n in operators(first))["aten.embedding"] == 1
    b = GraphBuilder({"x": ("batch", 4)})
    with pytest.raises(recfx.VerificationError, match="rejects its arguments"):
        b.call(aten.mm.default, b.inputs["x"], b.inputs["x"])
