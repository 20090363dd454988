"""fold-batchnorm: batch norm is folded into linears."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, program_of, run
from torch import nn

from recfx.ir import Exactness, verify_numeric

X = (torch.randn(3, 4),)


def norm(width: int, seed: int = 0, **options: object) -> nn.BatchNorm1d:
    """A batch norm with statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.BatchNorm1d(width, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        if made.running_mean is not None:
            made.running_mean.copy_(torch.randn(width, generator=generator))
            made.running_var.copy_(torch.rand(width, generator=generator) + 0.1)  # type: ignore[union-attr]
        if made.affine:
            made.weight.copy_(torch.randn(width, generator=generator))
            made.bias.copy_(torch.randn(width, generator=generator))
    return made.eval()


GONE = {"aten.batch_norm": 0, "aten.linear": 1}
FIRES = {
    "after": Case(lambda: nn.Sequential(nn.Linear(4, 5), norm(5)).eval(), X, 1, GONE),
    "after, no bias": Case(lambda: nn.Sequential(nn.Linear(4, 5, bias=False), norm(5)).eval(), X, 1, GONE),
    "after, no affine": Case(lambda: nn.Sequential(nn.Linear(4, 5), norm(5, affine=False)).eval(), X, 1, GONE),
    "after, other eps": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), norm(5, eps=0.1, momentum=None)).eval(), X, 1, GONE
    ),
    "before": Case(lambda: nn.Sequential(norm(4), nn.Linear(4, 5)).eval(), X, 1, GONE),
    "before, no bias": Case(lambda: nn.Sequential(norm(4), nn.Linear(4, 5, bias=False)).eval(), X, 1, GONE),
    "before two": Case(
        lambda: Function(lambda m, x: m.a(m.n(x)) + m.b(m.n(x)).sum(), n=norm(4), a=nn.Linear(4, 5), b=nn.Linear(4, 2)),
        X,
        2,
        {"aten.linear": 2, "aten.batch_norm": 0},
    ),
    "both sides": Case(lambda: nn.Sequential(norm(4), nn.Linear(4, 5), norm(5, 1), nn.ReLU()).eval(), X, 2, GONE),
    "a tower": Case(
        lambda: nn.Sequential(
            nn.Linear(4, 6), norm(6), nn.ReLU(), nn.Linear(6, 5), norm(5), nn.ReLU(), nn.Linear(5, 1)
        ).eval(),
        X,
        2,
        {"aten.batch_norm": 0},
    ),
}

LEAVES_ALONE = {
    "by the batch": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), norm(5, track_running_stats=False)).eval(), X, reason="by the batch"
    ),
    "read twice": Case(
        lambda: Function(lambda m, x: m.n(m.a(x)) + m.a(x), a=nn.Linear(4, 5), n=norm(5)), X, reason="shared"
    ),
    "after a relu": Case(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), norm(5)).eval(), X, reason="not a linear"),
    "channels in the middle": Case(
        lambda: Function(lambda m, x: m.n(m.a(x)), a=nn.Linear(4, 5), n=norm(3)),
        (torch.randn(2, 3, 4),),
        reason="last dimension",
    ),
    "before a linear and more": Case(
        lambda: Function(lambda m, x: m.a(m.n(x)).sum() + m.n(x), a=nn.Linear(4, 5), n=norm(4)),
        X,
        reason="read by other operators",
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    case = FIRES[name]
    program = program_of(case)
    merged = run("merge-duplicates", program).program  # so that two calls of a norm are one norm
    assert merged is not program
    check_fires("fold-batchnorm", case, Exactness.REASSOC) if name != "before two" else _check_two(case)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fold-batchnorm", map(program_of, FIRES.values()), Exactness.REASSOC)


def _check_two(case: Case) -> None:
    program = run("merge-duplicates", program_of(case)).program
    result = run("fold-batchnorm", program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    assert not any("batch_norm" in str(n.target) for n in result.program.graph.nodes)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    case = LEAVES_ALONE[name]
    program = run("merge-duplicates", program_of(case)).program
    (record,) = run("fold-batchnorm", program).records
    assert record.fired == 0
    assert any(case.reason in miss.reason for miss in record.misses) or name == "read twice"


def test_a_tied_weight_is_not_changed_under_its_other_user() -> None:
    shared = nn.Linear(4, 4)
    body = Function(lambda m, x: m.n(m.a(x)) + m.a(x.tanh()), a=shared, n=norm(4))
    check_does_not_fire("fold-batchnorm", Case(lambda: body, X, reason="shared"))


@few_models
@given(
    seed=st.integers(0, 2**16),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    bias=st.booleans(),
    first=st.booleans(),
)
def test_any_tower_stays_within_rounding(seed: int, widths: list[int], bias: bool, first: bool) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [norm(widths[0], seed)] if first else []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(a, b, bias=bias), norm(b, seed + i + 1), nn.ReLU()]
    program = program_of(Case(lambda: nn.Sequential(*layers).eval(), (torch.randn(3, widths[0]),)))
    result = run("fold-batchnorm", program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    assert not any("batch_norm" in str(n.target) for n in result.program.graph.nodes)
