"""batch-selects: many selections become one unbind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import nn

from recfx.ir import Exactness, verify_numeric
from recfx.passes import BatchSelects

X = (torch.randn(3, 4, 5),)


def columns(*picks: int, dim: int = 1) -> Case:
    def body(m: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        return [x.select(dim, i) * 2 for i in picks]

    return Case(lambda: Function(body), X, 1, {"aten.select.int": 0, "aten.unbind.int": 1})


@pytest.mark.parametrize(
    "case",
    [columns(0, 1, 2, 3), columns(3, 1, 0), columns(-1, 0, 1), columns(0, 2, 4, dim=2), columns(0, 1, 2, dim=-1)],
)
def test_fires(case: Case) -> None:
    check_fires("batch-selects", case, Exactness.EXACT)


def test_selections_of_selections() -> None:
    body = Function(lambda m, x: [x[:, i][:, j] * 2 for i in range(3) for j in range(3)])
    case = Case(lambda: body, X, 4, {"aten.select.int": 0, "aten.unbind.int": 4})
    program = run("merge-duplicates", program_of(case)).program
    result = run("batch-selects", program)
    assert operators(result.program)["aten.select.int"] == 0
    assert operators(result.program)["aten.unbind.int"] == 4
    verify_numeric(program, result.program, Exactness.EXACT)


def test_leaves_alone() -> None:
    check_does_not_fire("batch-selects", Case(columns(0, 1).model, X, reason="only 2"))
    wide = Case(
        lambda: Function(lambda m, x: [x[:, i] * 2 for i in range(3)]), (torch.randn(3, 100),), reason="3 of 100"
    )
    check_does_not_fire("batch-selects", wide)
    rows = Case(lambda: Function(lambda m, x: [x[i] for i in (0, 0, 0)]), X, reason="varies")
    check_does_not_fire("batch-selects", rows)


def test_options() -> None:
    check_fires(BatchSelects(at_least=2), columns(0, 1), Exactness.EXACT)


def test_a_table_stays_shared_by_its_lookups() -> None:
    table = nn.Embedding(9, 3)
    body = Function(lambda m, ids: torch.cat([m.t(ids[:, i]) for i in range(3)], 1), t=table)
    case = Case(lambda: body, (torch.randint(0, 9, (4, 3)),), 1, {"aten.select.int": 0})
    after = check_fires("batch-selects", case, Exactness.EXACT)
    assert len(after.state()) == 1


@few_models
@given(picks=st.lists(st.integers(-4, 3), min_size=1, max_size=8), dim=st.sampled_from([1, -2]))
def test_any_selection_keeps_its_bits(picks: list[int], dim: int) -> None:
    program = program_of(columns(*picks, dim=dim))
    result = run("batch-selects", program)
    verify_numeric(program, result.program, Exactness.EXACT)
    assert (operators(result.program)["aten.unbind.int"] == 1) == (len(picks) >= 3)
