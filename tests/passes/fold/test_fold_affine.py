"""fold-affine: constant scales and shifts are folded into weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, program_of, run
from torch import nn
from torch.nn import functional as F

from recfx.ir import Exactness, verify_numeric

X = (torch.randn(3, 4),)
IDS = (torch.randint(0, 6, (3, 2)),)
C5 = torch.tensor([0.5, -1.0, 2.0, 3.0, 0.1])


def linear(body: object, **state: object) -> Case:
    return Case(
        lambda: Function(body, a=nn.Linear(4, 5), **state),
        X,
        1,
        {"aten.linear": 1, "aten.mul.Tensor": 0, "aten.add.Tensor": 0},
    )  # type: ignore[arg-type]


def table(body: object, fired: int = 1, **state: object) -> Case:
    after = {"aten.mul.Tensor": 0, "aten.add.Tensor": 0, "aten.div.Tensor": 0}
    return Case(lambda: Function(body, t=nn.Parameter(torch.randn(6, 5)), **state), IDS, fired, after)  # type: ignore[arg-type]


FIRES = {
    "linear * number": linear(lambda m, x: m.a(x) * 0.25),
    "number * linear": linear(lambda m, x: 0.25 * m.a(x)),
    "linear / number": linear(lambda m, x: m.a(x) / 8),
    "linear * channels": linear(lambda m, x: m.a(x) * m.c, c=C5),
    "linear + channels": linear(lambda m, x: m.a(x) + m.c, c=C5),
    "linear - number": linear(lambda m, x: m.a(x) - 3.0),
    "input * number": linear(lambda m, x: m.a(x * 0.5)),
    "input / channels": linear(lambda m, x: m.a(x / m.c), c=torch.tensor([1.0, 2.0, -4.0, 0.5])),
    "one-element scale": linear(lambda m, x: m.a(x) * m.c, c=torch.tensor(1.5)),
    "embedding * number": table(lambda m, i: F.embedding(i, m.t) * 3),
    "embedding + channels": table(lambda m, i: F.embedding(i, m.t) + m.c, c=C5),
    "embedding * then +": table(lambda m, i: F.embedding(i, m.t) * 3 + m.c, 2, c=C5),
    "bag * number": table(lambda m, i: F.embedding_bag(i, m.t, mode="sum") * 0.5),
    "mean bag / number": table(lambda m, i: F.embedding_bag(i, m.t, mode="mean") / 4),
    "linear of linear": Case(lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).eval(), X, 1, {"aten.linear": 1}),
    "low-rank the cheap way round": Case(
        lambda: nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).eval(), X, 1, {"aten.linear": 1}
    ),
}

LEAVES_ALONE = {
    "number / linear": (lambda m, x: 2.0 / m.a(x), "not a linear", {}),
    "scale by an input": (lambda m, x: m.a(x) * x.sum(1, keepdim=True), "not a constant", {}),
    "scale by rows": (
        lambda m, x: m.a(x)[:3] * m.c,
        "not a constant along the last dimension",
        {"c": torch.randn(3, 1)},
    ),
    "division by zero": (lambda m, x: m.a(x) / m.c, "zero in a division", {"c": torch.zeros(5)}),
    "broadcast to more": (lambda m, x: m.a(x) * m.c, "shape", {"c": torch.randn(2, 1, 5)}),
    "promotion": (lambda m, x: m.a(x) * m.c, "dtype", {"c": C5.double()}),
    "linear read twice": (lambda m, x: (lambda y: y * 2 + y.exp())(m.a(x)), "read elsewhere", {}),
    "weight shared": (lambda m, x: m.a(x) * 2 + m.a(x.tanh()).exp(), "shared", {}),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fold-affine", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fold-affine", map(program_of, FIRES.values()), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, reason, state = LEAVES_ALONE[name]
    program = program_of(Case(lambda: Function(body, a=nn.Linear(4, 5), **state), X))
    (record,) = run("fold-affine", program).records
    assert record.fired == 0
    reasons = " | ".join(miss.reason for miss in record.misses)
    assert reason in reasons, reasons


def test_a_low_rank_pair_is_kept() -> None:
    case = Case(
        lambda: nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 8)).eval(),
        (torch.randn(3, 8),),
        reason="multiplies more",
    )
    check_does_not_fire("fold-affine", case)


def test_tables_with_other_uses_are_kept() -> None:
    shared = nn.Parameter(torch.randn(6, 5))
    body = Function(lambda m, i: F.embedding(i, m.a) * 2 + F.embedding(i, m.b).exp(), a=shared, b=shared)
    check_does_not_fire("fold-affine", Case(lambda: body, IDS, reason="other uses"))
    maximum = Function(lambda m, i: F.embedding_bag(i, m.t, mode="max") * -2, t=nn.Parameter(torch.randn(6, 5)))
    check_does_not_fire("fold-affine", Case(lambda: maximum, IDS, reason="maximum"))


@few_models
@given(
    seed=st.integers(0, 2**16),
    steps=st.lists(st.tuples(st.sampled_from("*/+-"), st.floats(0.125, 8), st.booleans()), max_size=4),
)
def test_any_chain_stays_within_rounding(seed: int, steps: list[tuple[str, float, bool]]) -> None:
    generator = torch.Generator().manual_seed(seed)
    constants = {f"c{i}": torch.rand(5, generator=generator) + 0.1 for i in range(len(steps))}

    def body(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        for i, (sign, number, vector) in enumerate(steps):
            by = getattr(m, f"c{i}") if vector else number
            y = {"*": y * by, "/": y / by, "+": y + by, "-": y - by}[sign]
        return y

    program = program_of(Case(lambda: Function(body, a=nn.Linear(4, 5), **constants), X))
    result = run("fold-affine", program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    assert result.program.operator_count() == 1


def test_weights_that_would_leave_the_dtypes_range_are_kept() -> None:
    overflow = Case(lambda: Function(lambda m, x: m.a(x) * 1e38, a=big()), X, reason="overflow")
    check_does_not_fire("fold-affine", overflow)
    underflow = Case(lambda: Function(lambda m, x: m.a(x * 1e-38), a=nn.Linear(4, 5)), X, reason="underflow")
    check_does_not_fire("fold-affine", underflow)


def big() -> nn.Linear:
    layer = nn.Linear(4, 5)
    with torch.no_grad():
        layer.weight.mul_(1e6)
    return layer
