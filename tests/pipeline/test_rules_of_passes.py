"""Rules inside passes: the nodes that they visit, undone changes, their numbers of rewrites; properties and names of
passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipeline_cases import ABS, NEG, RELU, TANH, chain, targets

import recfx
import recfx.pipeline
from recfx.ir import Exactness, Program
from recfx.passes import Canonicalize
from recfx.pipeline import (
    Gate,
    Miss,
    PassContext,
    PassSpec,
    Pipeline,
    apply_rules,
    property_check,
    registered,
    rewrite,
    run_pass,
)
from recfx.pipeline.properties import why_not
from recfx.pipeline.registry import find
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def test_a_rule_that_raises_misses_in_lenient_runs_only() -> None:
    def odd(node: Any, ctx: PassContext) -> Any:
        ctx.call(NEG, node.args[0])
        raise ValueError("  first line\nsecond line ")

    def strict(node: Any, ctx: PassContext) -> Any:
        raise recfx.PassError("on purpose")

    item, firm = rewrite(RELU, name="odd")(odd), rewrite(RELU, name="firm")(strict)
    after, record = run_pass(item, chain(RELU), lenient=True)
    assert [m.reason for m in record.misses] == ["the rule raised ValueError: first line"]
    assert targets(after) == [RELU]
    (record,) = Pipeline([item]).run(chain(RELU), lenient=True).records
    assert [m.rule for m in record.misses] == ["odd"]
    for run in (lambda: run_pass(item, chain(RELU)), lambda: Pipeline([item]).run(chain(RELU))):
        with pytest.raises((ValueError, recfx.PassError), match="first line"):
            run()
    with pytest.raises(recfx.PassError, match="on purpose"):
        run_pass(firm, chain(RELU), lenient=True)


def test_a_rule_sees_only_what_is_read_and_its_own_operators() -> None:
    seen: list[Any] = []

    def look(node: Any, ctx: PassContext) -> Any:
        seen.append(node.target)
        return {RELU: None, TANH: node, NEG: Miss("not this", node.args[0])}[node.target]

    program = chain(RELU, TANH, NEG, ABS)
    with program.graph.inserting_before(next(iter(program.graph.find_nodes(op="output")))):
        program.graph.call_function(RELU, (program.placeholders()[0],)).meta["val"] = program.placeholders()[0].meta[
            "val"
        ]
    ctx = PassContext(program, PassSpec("look", "For a test."))
    apply_rules([("look", (RELU, TANH, NEG), look)], ctx)
    assert seen == [RELU, TANH, NEG]
    (miss,) = ctx.misses
    assert (miss.node, miss.reason) == (ctx.nodes(TANH)[0].name, "not this")
    assert targets(program) == [RELU, TANH, NEG, ABS]  # the sweep removed the node without readers


def test_what_a_rule_that_returns_its_own_node_inserted_is_taken_back() -> None:
    def same(node: Any, ctx: PassContext) -> Any:
        ctx.call(TANH, ctx.call(NEG, node.args[0]))
        return node

    gate = Gate()
    after, record = run_pass(rewrite(RELU, name="same")(same), chain(RELU), gate=gate)
    assert targets(after) == [RELU]
    assert record.fired == 0
    assert gate.asked == []


@pytest.mark.parametrize("ends", ["refused", "missed", "same node", "nothing"])
def test_other_rules_do_not_see_what_was_taken_back(ends: str) -> None:
    """A value that a failed rule has read has no more users than before."""
    users: list[int] = []

    def insert(node: Any, ctx: PassContext) -> Any:
        made = ctx.call(ABS, node.args[0])
        return {"refused": made, "missed": Miss("no"), "same node": node, "nothing": None}[ends]

    def look(node: Any, ctx: PassContext) -> Any:
        users.append(len(node.args[0].users))

    b = GraphBuilder({"x": ("batch", 4)})
    shared = b.call(RELU, b.inputs["x"])
    program = b.build(b.call(TANH, shared), b.call(NEG, shared))
    ctx = PassContext(program, PassSpec("look", "For a test."), Gate(lambda index: False))
    apply_rules([("insert", (TANH,), insert), ("look", (NEG,), look)], ctx)
    assert users == [2]
    assert targets(program) == [RELU, TANH, NEG]


def test_a_rule_may_fire_on_64_sweeps() -> None:
    sweeps: list[int] = []

    def endless(node: Any, ctx: PassContext) -> Any:
        sweeps.append(1)
        return ctx.call(RELU, node.args[0])

    with pytest.raises(recfx.PassError, match="endless still fires after 64 sweeps"):
        run_pass(rewrite(RELU, name="endless")(endless), chain(RELU))
    assert len(sweeps) == 64


def test_what_a_rewrite_is_called() -> None:
    def drop_it_all(node: Any, ctx: PassContext) -> Any:
        """Drops it.

        And more.
        """

    def bare(node: Any, ctx: PassContext) -> Any:
        return None

    item = rewrite(RELU, exactness=Exactness.REASSOC, idempotent=False, needs={"labels"})(drop_it_all)
    assert (item.spec.name, item.spec.summary) == ("drop-it-all", "Drops it.")
    assert (item.spec.exactness, item.spec.idempotent, item.spec.needs) == (Exactness.REASSOC, False, {"labels"})
    assert (type(item).__module__, type(item).__name__) == (__name__, "drop_it_all")
    assert type(item).__doc__ == drop_it_all.__doc__
    assert type(item).__qualname__ == drop_it_all.__qualname__
    plain = rewrite(RELU, name="plain")(bare)
    assert (plain.spec.name, plain.spec.summary, plain.spec.exactness) == ("plain", "plain", Exactness.EXACT)


def test_a_property_has_a_check() -> None:
    @property_check("tested")
    def check(program: Program) -> str | None:
        return "not yet" if RELU in targets(program) else None

    assert check(chain(RELU)) == "not yet"
    assert why_not(chain(RELU), "tested") == "not yet"
    assert why_not(chain(TANH), "tested") is None
    assert property_check("tested")(check) is check
    program = chain(RELU)
    assert why_not(program, "functional") is None
    next(n for n in program.graph.nodes if n.target is RELU).target = aten.relu_.default
    assert why_not(program, "functional") == "relu_default writes in place"


def test_passes_are_found_by_name() -> None:
    assert find("canonicalize") is Canonicalize
    assert list(registered()) == sorted(registered())
    with pytest.raises(recfx.PipelineError, match="did you mean fuse-fm, fuse-mlp"):
        find("fuse-mf")
    with pytest.raises(recfx.PipelineError, match=r"known passes: .*, canonicalize, .*fuse-fm, .*"):
        find("xyz")
