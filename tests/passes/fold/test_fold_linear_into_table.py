"""fold-linear-into-table: a linear over looked-up rows is applied to the table once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import Tensor, nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.ir import Exactness, verify_numeric
from recfx.passes import FoldLinearIntoTable
from recfx.pipeline import Pipeline
from recfx.testing import assert_pass_preserves

R, D = 9, 6


def case(body: Callable[..., Any], *, out: int = 4, linears: int = 0, reason: str = "", **state: Any) -> Case:
    def model() -> nn.Module:
        torch.manual_seed(1)
        given = {"t": nn.Embedding(R, D), "p": nn.Embedding(R, D, padding_idx=2), "a": nn.Linear(D, out)}
        given |= {"s": nn.EmbeddingBag(R, D, mode="sum"), "m": nn.EmbeddingBag(R, D, mode="mean", padding_idx=2)}
        return Function(body, **{**given, "x": nn.EmbeddingBag(R, D, mode="max"), "c": nn.Linear(D + 2, out), **state})

    ids = torch.randint(0, R, (4, 3), generator=torch.Generator().manual_seed(2))
    return Case(model, (ids,), 1, {"aten.linear": linears}, reason)


FIRES = {
    "one-hot": case(lambda m, i: m.a(m.t(i[:, 0]))),
    "one-hot, wider": case(lambda m, i: m.a(m.t(i[:, 0])), out=20),
    "one-hot with padding": case(lambda m, i: m.a(m.p(i))),
    "one-hot without bias": case(lambda m, i: F.linear(m.t(i), m.a.weight)),
    "sum bag": case(lambda m, i: m.a(m.s(i))),
    "sum bag without bias": case(lambda m, i: F.linear(m.s(i), m.a.weight)),
    "mean bag with padding": case(lambda m, i: m.a(m.m(i))),
    "weighted bag": case(lambda m, i: m.a(m.s(i, per_sample_weights=i.float() / 3))),
    "bag of padding alone": case(lambda m, i: m.a(m.m(torch.full_like(i, 2)))),
    "sum over a history": case(lambda m, i: m.a(m.t(i).sum(1))),
    "mean over a history": case(lambda m, i: m.a(m.p(i).mean(1, keepdim=True))),
    "weight used elsewhere": case(lambda m, i: m.a(m.t(i)).sum(1) * m.a(m.s(i) * 2), linears=1),
    "table used elsewhere": case(lambda m, i: torch.cat([m.a(m.t(i[:, 0])), m.t(i[:, 1])], 1)),
}

LEAVES_ALONE = {
    "maximum": case(lambda m, i: m.a(m.x(i)), reason="maximum"),
    "rows read elsewhere": case(
        lambda m, i: (lambda e: m.a(e).sum(1) + e.exp().sum(1))(m.t(i[:, 0])), reason="read elsewhere"
    ),
    "pooled rows read elsewhere": case(
        lambda m, i: (lambda e: m.a(e).sum(1) + e.exp().sum(1))(m.s(i)), reason="read elsewhere"
    ),
    "pooled rows would widen": case(lambda m, i: m.a(m.s(i)), out=7, reason="widen from 6 to 7"),
    "history rows would widen": case(lambda m, i: m.a(m.t(i).sum(1)), out=7, reason="widen"),
    "pooled over columns": case(lambda m, i: F.linear(m.t(i).sum(2), m.k), k=torch.randn(2, 3), reason="columns"),
    "computed table": case(lambda m, i: m.a(F.embedding(i, m.t.weight * m.t(i).mean())), reason="computed"),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fold-linear-into-table", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fold-linear-into-table", map(program_of, FIRES.values()), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    check_does_not_fire("fold-linear-into-table", LEAVES_ALONE[name])


def test_the_state_may_grow_only_so_far() -> None:
    wide = case(lambda m, i: m.a(m.t(i)), out=20, reason="grow by 24 bytes")  # 9·20 − 9·6 − 6·20 numbers of 4 bytes
    check_does_not_fire(FoldLinearIntoTable(max_bytes_growth=23), wide)
    check_fires(FoldLinearIntoTable(max_bytes_growth=24), wide, Exactness.REASSOC)


def test_a_concatenation_is_split_only_when_asked_for() -> None:
    both = case(lambda m, i: m.c(torch.cat([m.t(i[:, 0]), i[:, 1:].float()], 1)), linears=1)
    assert run("fold-linear-into-table", program_of(both)).records[0].fired == 0
    after = check_fires(FoldLinearIntoTable(concat_bytes=R * 4 * 4), both, Exactness.REASSOC)
    assert operators(after)["aten.cat"] == 0
    check_does_not_fire(
        FoldLinearIntoTable(concat_bytes=R * 4 * 4 - 1), Case(both.model, both.inputs, reason="no table in it is small")
    )


def test_tied_tables_are_not_changed_under_their_other_user() -> None:
    shared = nn.Parameter(torch.randn(R, D))

    def body(m: nn.Module, i: Tensor) -> Tensor:
        return m.a(F.embedding(i[:, 0], m.u)) @ m.a.weight @ m.w.T

    torch.manual_seed(0)
    tied = Case(lambda: Function(body, a=nn.Linear(D, D), u=shared, w=shared), (torch.randint(0, R, (4, 3)),))
    after = check_fires("fold-linear-into-table", tied, Exactness.REASSOC)
    assert any(tensor is shared for tensor in after.state().values())


def test_empty_bags_give_the_bias() -> None:
    class Ragged(nn.Module):
        def __init__(self, mode: str) -> None:
            super().__init__()
            self.bag, self.a = nn.EmbeddingBag(R, D, mode=mode, include_last_offset=True), nn.Linear(D, 4)

        def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
            out: Tensor = self.a(self.bag(ids, offsets))
            return out

    for mode in ("sum", "mean"):
        model = Ragged(mode).eval()
        inputs = (torch.tensor([1, 2, 3]), torch.tensor([0, 0, 2, 2, 3]))
        program = capture(model, inputs, dynamic_shapes=False)
        result = run("fold-linear-into-table", program)
        assert result.records[0].fired == 1
        (got,) = result.program.run(inputs)
        assert torch.equal(got[0], model.a.bias)
        assert torch.equal(got[2], model.a.bias)
        verify_numeric(program, result.program, Exactness.REASSOC)


@few_models
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 12),
    width=st.integers(1, 8),
    out=st.integers(1, 8),
    form=st.sampled_from(["one-hot", "sum", "mean", "history"]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_lookup_stays_within_rounding(
    seed: int, rows: int, width: int, out: int, form: str, bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    ids = torch.randint(0, rows, (3, 4))
    bag = nn.EmbeddingBag(rows, width, mode=form if form == "mean" else "sum").to(dtype)
    bodies = {
        "one-hot": lambda m, i: m.a(F.embedding(i, m.t.weight)),
        "history": lambda m, i: m.a(F.embedding(i, m.t.weight).sum(1)),
    }
    body = bodies.get(form, lambda m, i: m.a(m.t(i)))
    model = Function(body, a=nn.Linear(width, out, bias=bias).to(dtype), t=bag)
    program = Pipeline("canonicalize").run(capture(model, (ids,), check=False)).program
    result = run("fold-linear-into-table", program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    assert result.records[0].fired == (form == "one-hot" or out <= width)


def test_random_graphs() -> None:
    assert_pass_preserves("fold-linear-into-table", max_examples=25)
    assert_pass_preserves(FoldLinearIntoTable(concat_bytes=1 << 12), max_examples=25)
