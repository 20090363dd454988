"""The context of a pass: insertion, state, provenance, misses, the gate, and the recomputation of values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipeline_cases import ABS, NEG, RELU, TANH, chain, targets

from recfx.ir import Program, verify_meta
from recfx.ir.program import Origin
from recfx.pipeline import Gate, PassContext, PassSpec
from recfx.pipeline.context import _same_meta
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def context(program: Program, **options: Any) -> PassContext:
    return PassContext(program, PassSpec("change-it", "For a test."), **options)


def linear() -> Program:
    b = GraphBuilder({"x": ("batch", 4)})
    return b.build(b.call(RELU, b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.ones(4, 4)))))


def test_operators_by_target() -> None:
    ctx = context(chain(RELU, TANH, RELU, NEG))
    assert [n.target for n in ctx.nodes()] == [RELU, TANH, RELU, NEG]
    assert [n.target for n in ctx.nodes(RELU, NEG)] == [RELU, RELU, NEG]
    assert ctx.nodes(ABS) == []


def test_what_is_inserted_inherits_the_provenance_of_the_node_before_which_it_stands() -> None:
    program = chain(RELU, TANH)
    ctx = context(program)
    relu, tanh = ctx.nodes()
    tanh.meta |= {
        "stack_trace": "line 3",
        "nn_module_stack": {"a": ("head", "Head")},
        "torch_fn": ("f", "g"),
        "other": 1,
    }
    with ctx.before(tanh):
        with ctx.before(relu):
            first = ctx.call(NEG, program.placeholders()[0])
        second = ctx.call(ABS, relu)
    outside = ctx.call(ABS, relu)
    assert [n.target for n in ctx.nodes()] == [NEG, RELU, ABS, TANH, ABS]
    for node, like in ((first, relu), (second, tanh)):
        assert node.meta["recfx_pass"] == "change-it"
        assert node.meta["val"].shape[1] == 4
        (origin,) = node.meta["from_node"]
        assert (origin.name, origin.pass_name) == (like.name, "change-it")
        assert "CREATE" in str(origin.action)
    assert second.meta["stack_trace"] == "line 3"
    assert second.meta["nn_module_stack"] == {"a": ("head", "Head")}
    assert second.meta["torch_fn"] == ("f", "g")
    assert "other" not in second.meta
    assert "source_fn_stack" not in second.meta
    assert "stack_trace" not in first.meta
    assert outside.meta["recfx_pass"] == "change-it"
    assert "from_node" not in outside.meta


def test_the_node_to_inherit_from_is_forgotten_after_an_error() -> None:
    ctx = context(chain(RELU))
    (relu,) = ctx.nodes()
    with pytest.raises(ZeroDivisionError), ctx.before(relu):
        raise ZeroDivisionError
    assert "from_node" not in ctx.call(NEG, relu).meta


def test_constants_get_free_names_and_their_values() -> None:
    program = linear()
    ctx = context(program)
    relu = ctx.nodes(RELU)[0]
    with ctx.before(relu):
        first, second = ctx.constant("w", torch.full((4,), 2.0)), ctx.constant("w", torch.full((4, 1), 3.0))
        again = ctx.read("w")
    assert len({str(n.target) for n in (first, second, again)}) == 3
    assert first.meta["recfx_pass"] == "change-it"
    assert second.meta["from_node"][0].name == relu.name
    assert [n.meta["val"].shape for n in (first, second, again)] == [(4,), (4, 1), (4, 4)]
    assert all(type(size) is int for n in (first, second) for size in n.meta["val"].shape)
    tensors = [ctx.tensor(n) for n in (first, second, again)]
    assert [float(t.flatten()[0]) for t in tensors if t is not None] == [2.0, 3.0, 1.0]
    for other in (relu, program.placeholders()[0], 3, None, torch.ones(2)):
        assert ctx.tensor(other) is None
    with ctx.before(relu):
        ctx.replace(relu, ctx.call(aten.add.Tensor, ctx.call(RELU, relu.args[0]), first))
    verify_meta(program)
    assert torch.equal(program.run([torch.zeros(2, 4)])[0], torch.full((2, 4), 2.0))


def test_misses_say_where() -> None:
    program = linear()
    ctx = context(program)
    relu = ctx.nodes(RELU)[0]
    relu.meta["nn_module_stack"] = {"a": ("tower.act", "ReLU")}
    ctx.miss("fold", relu, "no reason")
    (miss,) = ctx.misses
    assert (miss.pass_name, miss.rule, miss.node, miss.where, miss.reason) == (
        "change-it", "fold", relu.name, "tower.act", "no reason"
    )  # fmt: skip


def test_resources_and_leniency_are_given() -> None:
    given = {"examples": [1]}
    ctx = context(linear(), resources=given)
    assert ctx.resources == given
    assert ctx.resources is not given
    assert ctx.resources is not context(linear()).resources
    assert context(linear()).resources == {}
    assert context(linear()).lenient is False
    assert context(linear(), lenient=True).lenient is True


def test_rewrites_are_counted_and_numbered() -> None:
    gate = Gate(lambda index: index != 1)
    ctx = context(chain(RELU, TANH, NEG), gate=gate)
    relu, tanh, neg = ctx.nodes()
    neg.meta["nn_module_stack"] = {"a": ("head", "Neg")}
    assert [ctx.gate("a", relu), ctx.gate("b", tanh), ctx.gate("b", tanh), ctx.gate("b", neg)] == [
        True,
        False,
        False,
        True,
    ]
    assert ctx.fired == 2
    assert [(a.index, a.pass_name, a.rule, a.node, a.where, a.allowed) for a in gate.asked] == [
        (0, "change-it", "a", relu.name, "", True),
        (1, "change-it", "b", tanh.name, "", False),
        (2, "change-it", "b", neg.name, "head", True),
    ]
    assert Gate().ask("p", "r", relu)
    assert Gate(lambda index: False).ask("p", "r", relu, mandatory=True)
    assert not Gate(lambda index: False).ask("p", "r", relu)


def test_several_nodes_are_replaced_pairwise_and_the_dead_are_swept() -> None:
    program = chain(RELU, TANH)
    ctx = context(program)
    relu, tanh = ctx.nodes()
    x = program.placeholders()[0]
    with ctx.before(relu):
        negated, unread = ctx.call(NEG, x), ctx.call(ABS, x)
    with ctx.before(tanh):
        last = ctx.call(ABS, relu)
    ctx.replace_many([tanh, relu], [last, negated])
    assert [n.target for n in ctx.nodes()] == [NEG, ABS, ABS]
    assert ctx.sweep() == 1
    assert targets(program) == [NEG, ABS]
    assert ctx.sweep() == 0
    with pytest.raises(ValueError, match="zip"):
        ctx.replace_many([negated], [])
    del unread


def test_values_that_follow_are_recomputed_only_where_they_change() -> None:
    b = GraphBuilder({"x": ("batch", 4), "y": ("batch", 4)})
    one = b.call(TANH, b.inputs["x"])
    two = b.call(aten.gt.Scalar, one, 0)
    other = b.call(TANH, b.inputs["y"])
    program = b.build(two, b.call(NEG, one), other)
    ctx = context(program)
    tanh, gt, apart, neg = ctx.nodes()
    kept, far = gt.meta["val"], apart.meta["val"]
    with ctx.before(tanh):
        ctx.replace(tanh, ctx.call(aten.to.dtype, program.placeholders()[0], torch.float64))
    assert gt.meta["val"] is kept  # still bool
    assert apart.meta["val"] is far  # its inputs did not change
    assert neg.meta["val"].dtype is torch.float64
    verify_meta(program)
    value = neg.meta["val"]
    ctx.refresh_after(neg)
    assert neg.meta["val"] is value


def test_when_two_values_are_alike() -> None:
    plain = torch.empty(2, 3)
    assert _same_meta(plain, torch.zeros(2, 3))
    for other in (
        plain.double(),
        torch.empty(3, 2).T,
        torch.empty(2, 4),
        plain[0],
        torch.empty(2, 3).to_sparse(),
        3,
        None,
    ):
        assert not _same_meta(plain, other)
        assert not _same_meta(other, plain)
    sparse = torch.zeros(2, 3).to_sparse()
    assert _same_meta(sparse, torch.zeros(2, 3).to_sparse())
    assert _same_meta((plain, 2), [plain, 2])
    assert not _same_meta((plain, 2), (plain,))
    assert not _same_meta((plain, 2), (plain, 3))
    assert not _same_meta((plain,), (plain.double(),))
    assert not _same_meta((plain,), plain)
    assert _same_meta(None, None)
    assert _same_meta(3, 3)
    assert not _same_meta(3, 4)
    assert not _same_meta(3, 3.0)
    assert not _same_meta(3, "3")
    assert not _same_meta("3", 3)
    size = linear().placeholders()[0].meta["val"].shape[0]
    assert _same_meta(size, size)
    assert _same_meta(size, linear().placeholders()[0].meta["val"].shape[0])
    assert not _same_meta(size, 4)
    assert not _same_meta("a", ["a"])


def test_a_copy_of_a_program_keeps_its_origins() -> None:
    program = linear()
    program.origins["x"] = Origin.REQUEST
    copy = program.clone()
    copy.origins["x"] = Origin.CANDIDATE
    assert program.origins == {"x": Origin.REQUEST}
