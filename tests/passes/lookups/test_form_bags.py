"""form-bags: an embedding whose only reader pools it becomes a pooling lookup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import nn
from torch.nn import functional as F

from recfx.ir import Exactness, verify_numeric
from recfx.ops.lookup import MEAN, decode, grouped_lookup
from recfx.testing import assert_pass_preserves

IDS = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(0))
CUBE = torch.randint(0, 9, (4, 3, 5), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
GONE = {"aten.embedding": 0, "recfx.grouped_lookup": 1}


def table(rows: int = 9, dim: int = 4) -> nn.Embedding:
    return nn.Embedding(rows, dim)


def model(body: Callable[..., Any]) -> Callable[[], nn.Module]:
    return lambda: Function(body, e=table())


def case(body: Callable[..., Any], *inputs: torch.Tensor, after: dict[str, int] | None = None) -> Case:
    return Case(model(body), inputs or (IDS,), 1, {**GONE, **(after or {})})


POSITIVE = {
    "sum": case(lambda m, i: m.e(i).sum(1)),
    "mean": case(lambda m, i: m.e(i).mean(1)),
    "negative dimension": case(lambda m, i: m.e(i).sum(-2)),
    "dimension kept": case(lambda m, i: m.e(i).mean(1, keepdim=True)),
    "int32 ids": case(lambda m, i: m.e(i).sum(1), IDS.int()),
    "three dimensions": case(lambda m, i: m.e(i).sum(2), CUBE),
    "weighted": case(lambda m, i, w: (m.e(i) * w.unsqueeze(-1)).sum(1), IDS, WEIGHTS, after={"aten.mul.Tensor": 0}),
    "weights first": case(lambda m, i, w: (w[:, :, None] * m.e(i)).sum(1), IDS, WEIGHTS),
    "weights expanded": case(lambda m, i, w: (m.e(i) * w.unsqueeze(2).expand(-1, -1, 4)).sum(1), IDS, WEIGHTS),
    "boolean mask": case(lambda m, i, w: (m.e(i) * w.unsqueeze(-1)).sum(1), IDS, WEIGHTS > 0.5),
    "integer mask": case(lambda m, i, w: (m.e(i) * w.unsqueeze(-1)).sum(1), IDS, (WEIGHTS > 0.5).long()),
    "padding": case(lambda m, i: (m.e(i) * (i != 0).unsqueeze(-1)).sum(1), after={"aten.ne.Scalar": 0}),
    "padding as float": case(lambda m, i: (m.e(i) * (i != 3).float().unsqueeze(-1)).sum(1)),
    "positive ids": case(lambda m, i: (m.e(i) * (i > 0).unsqueeze(-1).float()).sum(1)),
    "filled": case(lambda m, i: m.e(i).masked_fill((i == 0).unsqueeze(-1), 0).sum(1), after={"aten.eq.Scalar": 0}),
    "filled where not": case(lambda m, i: m.e(i).masked_fill(~(i != 0).unsqueeze(-1), 0.0).sum(1)),
    "filled by a mask": case(lambda m, i, w: m.e(i).masked_fill(w.unsqueeze(-1), 0.0).sum(1), IDS, WEIGHTS > 0.5),
    "numbers negated twice": case(
        lambda m, i, w: (m.e(i) * w.logical_not().logical_not().unsqueeze(-1)).sum(1), IDS, IDS.flip(0)
    ),
    "filled where numbers are zero": case(
        lambda m, i, w: m.e(i).masked_fill(w.logical_not().unsqueeze(-1), 0.0).sum(1), IDS, IDS.flip(0)
    ),
    "masked mean": case(
        lambda m, i, w: (m.e(i) * w.unsqueeze(-1)).sum(1) / (w.sum(1, keepdim=True) + 1e-8),
        IDS,
        WEIGHTS,
        after={"aten.div.Tensor": 1, "aten.add.Tensor": 1},
    ),
    "weighted, three dimensions": case(lambda m, i, w: (m.e(i) * w.unsqueeze(-1)).sum(2), CUBE, torch.rand(4, 3, 5)),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_fires(name: str) -> None:
    check_fires("form-bags", POSITIVE[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("form-bags", map(program_of, POSITIVE.values()), Exactness.REASSOC)


def refused(reason: str, body: Callable[..., Any], *inputs: torch.Tensor, dim: int = 4) -> Case:
    return Case(lambda: Function(body, e=table(dim=dim)), inputs or (IDS,), reason=reason)


NEGATIVE = {
    "over the columns": refused("last dimension of the ids", lambda m, i: m.e(i).sum(2)),
    "over the fields": refused("last dimension of the ids", lambda m, i: m.e(i).sum(1), CUBE),
    "over the batch": refused("over the batch", lambda m, i: m.e(i[:, 0]).sum(0)),
    "over two": refused("last dimension of the ids", lambda m, i: m.e(i).sum((1, 2))),
    "rows read twice": refused("read elsewhere", lambda m, i: (lambda e: (e.sum(1), e * 2))(m.e(i))),
    "product read twice": refused(
        "read elsewhere", lambda m, i, w: (lambda e: (e.sum(1), e))(m.e(i) * w.unsqueeze(-1)), IDS, WEIGHTS
    ),
    "another dtype": refused("another dtype", lambda m, i: m.e(i).sum(1, dtype=torch.float64)),
    "a factor for each column": refused(
        "not one number", lambda m, i, w: (m.e(i) * w[:, None, :4]).sum(1), IDS, WEIGHTS
    ),
    "a masked mean over all": refused("whole length", lambda m, i, w: (m.e(i) * w.unsqueeze(-1)).mean(1), IDS, WEIGHTS),
    "a computed table": refused("computed", lambda m, i: F.embedding(i, m.e.weight * i.sum()).sum(1)),
    "a padding outside the table": refused(
        "not a row of the table", lambda m, i: (m.e(i) * (i != 20).unsqueeze(-1)).sum(1)
    ),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_leaves_alone(name: str) -> None:
    check_does_not_fire("form-bags", NEGATIVE[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tables_of_another_dtype_stay(dtype: torch.dtype) -> None:
    body = Function(lambda m, i: m.e(i).sum(1), e=table()).to(dtype)
    check_does_not_fire("form-bags", Case(lambda: body, (IDS,), reason="not a float32"))


def test_a_padding_row_that_is_not_finite_stays() -> None:
    def broken() -> nn.Module:
        made = Function(lambda m, i: (m.e(i) * (i != 0).unsqueeze(-1)).sum(1), e=table())
        made.e.weight.data[0] = float("inf")
        return made

    check_does_not_fire("form-bags", Case(broken, (IDS,), reason="not finite"))


def test_the_padding_is_told_to_the_lookup() -> None:
    program = check_fires("form-bags", POSITIVE["padding"], Exactness.REASSOC)
    (node,) = (n for n in program.graph.nodes if n.target is grouped_lookup)
    (feature,) = decode(node.args[5])
    assert (feature.padding, feature.length, node.args[3]) == (0, 5, [])


def test_tied_tables_stay_shared() -> None:
    shared = table()
    body = Function(lambda m, i: m.a(i).sum(1) + m.b(i).mean(1), a=shared, b=shared)
    after = check_fires("form-bags", Case(lambda: body, (IDS,), 2, {"aten.embedding": 0}), Exactness.REASSOC)
    assert len({id(t) for t in after.state().values()}) == 1


@few_models
@given(
    length=st.integers(1, 6), dim=st.integers(1, 5), mean=st.booleans(), mask=st.sampled_from(["", "padding", "weights"]),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_any_bag_keeps_its_meaning(length: int, dim: int, mean: bool, mask: str, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 7, (3, length), generator=rng)
    weight = nn.Parameter(torch.randn(7, dim, generator=rng))

    def body(m: nn.Module, i: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rows = F.embedding(i, m.t)
        if mask:
            factor = (i != 2) if mask == "padding" else w
            return (rows * factor.unsqueeze(-1)).sum(1)
        return rows.mean(1) if mean else rows.sum(1)

    program = program_of(Case(lambda: Function(body, t=weight), (ids, torch.rand(3, length, generator=rng))))
    result = run("form-bags", program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    found = [n for n in result.program.graph.nodes if n.target is grouped_lookup]
    assert operators(result.program)["aten.embedding"] == 0
    assert (decode(found[0].args[5])[0].pooling == MEAN) == (mean and not mask)


def test_random_graphs_keep_their_meaning() -> None:
    assert_pass_preserves("form-bags", max_examples=20)
