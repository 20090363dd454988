"""canonicalize: one plain form."""

from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import nn

from recfx.ir import Exactness, verify_numeric
from recfx.testing import GraphBuilder

X = (torch.randn(3, 4),)
IDS = (torch.randint(0, 9, (3, 4)),)

FIRES = {
    "full slice": Case(lambda: Function(lambda m, x: x[:, 0:4] + 1), X, 1, {"aten.slice.Tensor": 0}),
    "full slice of the batch": Case(lambda: Function(lambda m, x: x[:] + 1), X, 1, {"aten.slice.Tensor": 0}),
    "cast to the same dtype": Case(
        lambda: Function(lambda m, x: x.to(torch.float32) + x.float()), X, 2, {"aten.to.dtype": 0}
    ),
    "eval dropout": Case(
        lambda: Function(lambda m, x: m.d(x) + 1, d=nn.Dropout(0.5).eval()), X, 1, {"aten.dropout": 0}
    ),
    "eval dropout of features": Case(
        lambda: Function(lambda m, x: torch.ops.aten.feature_alpha_dropout(x, 0.5, False) + 1),
        X,
        1,
        {"aten.feature": 0},
    ),
    "clone": Case(lambda: Function(lambda m, x: x.clone() + 1), X, 1, {"aten.clone": 0}),
    "detach": Case(lambda: Function(lambda m, x: x.detach() + 1), X, 1),
    "reshape to the same": Case(lambda: Function(lambda m, x: x.reshape(-1, 4) + 1), X, 1, {"aten.reshape": 0}),
    "view to the same": Case(lambda: Function(lambda m, x: x.view(x.shape) + 1), X, 1, {"aten.view": 0}),
    "expand to the same": Case(lambda: Function(lambda m, x: x.expand(-1, 4) + 1), X, 1, {"aten.expand": 0}),
    "permute in order": Case(lambda: Function(lambda m, x: x.permute(0, 1) + 1), X, 1, {"aten.permute": 0}),
    "cat of one": Case(lambda: Function(lambda m, x: torch.cat([x], 1) + 1), X, 1, {"aten.cat": 0}),
    "times one": Case(
        lambda: Function(lambda m, x: x * 1 + x / 1.0), X, 2, {"aten.mul.Tensor": 0, "aten.div.Tensor": 0}
    ),
    "reshape of reshape": Case(
        lambda: Function(lambda m, x: x.reshape(-1, 2, 2).reshape(-1, 2, 1, 2) + 1), X, 1, {"aten.reshape": 1}
    ),
    "transpose twice": Case(
        lambda: Function(lambda m, x: x.transpose(0, 1).transpose(1, 0) + 1), X, 1, {"aten.transpose.int": 0}
    ),
    "squeeze of nothing": Case(lambda: Function(lambda m, x: x.squeeze(1) + 1), X, 1, {"aten.squeeze.dim": 0}),
}

LEAVES_ALONE = {
    "real slice": Case(lambda: Function(lambda m, x: x.float()[:, 1:4] + 1), IDS, reason="changes dtype"),
    "real cast": Case(lambda: Function(lambda m, x: x.to(torch.float64) + 1), X, reason="changes dtype"),
    "integer division": Case(lambda: Function(lambda m, x: x / 1), IDS, reason="dtype"),
    "square transpose": Case(
        lambda: Function(lambda m, x: torch.bmm(x, x.permute(0, 2, 1))),
        (torch.randn(3, 4, 4),),
        reason=None,
    ),
    "contiguous of a transpose": Case(
        lambda: Function(lambda m, x: x.permute(0, 2, 1).contiguous() + 1), (torch.randn(3, 4, 5),), reason="strides"
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("canonicalize", FIRES[name], Exactness.EXACT)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("canonicalize", map(program_of, FIRES.values()), Exactness.EXACT)


def test_a_squeeze_of_the_batch_stays() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    total = b.call(torch.ops.aten.sum.dim_IntList, b.inputs["x"], [1])
    program = b.build(b.call(torch.ops.aten.squeeze.dim, total, -1))
    result = run("canonicalize", program)
    assert operators(result.program)["aten.squeeze.dim"] == 1
    assert ["may be 1" in miss.reason for miss in result.records[0].misses] == [True]


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    check_does_not_fire("canonicalize", LEAVES_ALONE[name])


def test_a_training_dropout_stays() -> None:
    case = Case(lambda: Function(lambda m, x: x + 1), X)
    program = program_of(case).clone()
    output = next(iter(reversed(program.graph.nodes)))
    (last,) = output.args[0]
    with program.graph.inserting_before(output):
        drop = program.graph.call_function(torch.ops.aten.dropout.default, (last, 0.5, True))
    drop.meta["val"] = last.meta["val"]
    output.args = ((drop,),)
    (record,) = run("canonicalize", program).records
    assert record.fired == 0
    assert "drops values" in record.misses[0].reason


@pytest.mark.parametrize("bound", [None, 1, 2], ids=["a constant", "a decided comparison", "an assumed comparison"])
def test_assertions_that_always_hold_go(bound: int | None) -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    rows = b.call(torch.ops.aten.sym_size.int, b.inputs["x"], 0)
    held = True if bound is None else b.call(operator.ge, rows, bound)
    b.call(torch.ops.aten._assert_scalar.default, held, "too few rows")
    program = b.build(b.call(torch.ops.aten.mul.Tensor, b.inputs["x"], 2))
    assert operators(program)["aten._assert_scalar"] == 1
    assert operators(run("canonicalize", program).program) == {"aten.mul.Tensor": 1}


def test_tied_tables_stay_tied() -> None:
    model = TinyCtr()
    program = program_of(Case(lambda: model, tiny_inputs(4)))
    result = run("canonicalize", program)
    tables = {id(t) for name, t in result.program.state().items() if name in ("item.weight", "bag.weight")}
    assert len(tables) == 1
    verify_numeric(program, result.program, Exactness.EXACT)


STEPS = {
    "slice": lambda x: x[:, 0:],
    "part": lambda x: x[:, :2].repeat(1, 2),
    "view": lambda x: x.reshape(-1, 4),
    "fold": lambda x: x.reshape(-1, 2, 2).flatten(1),
    "one": lambda x: x * 1,
    "two": lambda x: x * 2,
    "clone": lambda x: x.clone(),
    "flip": lambda x: x.view(-1, 2, 2).transpose(1, 2).reshape(-1, 4),
    "cast": lambda x: x.double().float(),
    "cat": lambda x: torch.cat([x], dim=0),
}


@few_models
@given(names=st.lists(st.sampled_from(sorted(STEPS)), max_size=6))
def test_any_chain_of_steps_keeps_its_bits(names: list[str]) -> None:
    def body(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = STEPS[name](x)
        return x + 1

    check = program_of(Case(lambda: Function(body), X))
    result = run("canonicalize", check)
    verify_numeric(check, result.program, Exactness.EXACT)
    assert run("canonicalize", result.program).records[0].fired == 0


def test_an_expanded_value_times_one_is_not_the_same_memory() -> None:
    body = Function(lambda m, x: (x[:, :, None].expand(-1, 4, 3) * 1).reshape(-1, 12))
    check_does_not_fire("canonicalize", Case(lambda: body, X, reason="strides"))
