"""merge-tables: tables of equal content are stored once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import Case, Function, check_fires, few_models, program_of, run
from torch import nn
from torch.nn import functional as F

from recfx.ir import Exactness, verify_numeric
from recfx.testing import GraphBuilder

IDS = (torch.randint(0, 6, (3, 2)),)


def two_tables(first: torch.Tensor, second: torch.Tensor) -> Function:
    def body(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.embedding(ids[:, 0], m.a), F.embedding_bag(ids, m.b, mode="sum")], dim=1)

    return Function(body, a=nn.Parameter(first.clone()), b=nn.Parameter(second.clone()))


def test_equal_tables_become_one() -> None:
    table = torch.randn(6, 4)
    after = check_fires("merge-tables", Case(lambda: two_tables(table, table), IDS), Exactness.EXACT)
    assert after.state_bytes() == table.numel() * 4


def test_nan_equals_itself_by_its_bytes() -> None:
    table = torch.randn(6, 4)
    table[2, 1] = float("nan")
    check_fires("merge-tables", Case(lambda: two_tables(table, table), IDS), Exactness.EXACT)


def test_tables_that_differ_stay_apart() -> None:
    table = torch.randn(6, 4)
    other, signed, wider = table.clone(), table.clone(), torch.cat([table, table])
    other[5, 3] += 1e-6
    table[0, 0], signed[0, 0] = 0.0, -0.0
    for second in (other, signed, wider, table.double().float() + 1):
        program = program_of(Case(lambda second=second: two_tables(table, second), IDS))
        assert run("merge-tables", program).records[0].fired == 0


@pytest.mark.parametrize("shape", [(), (1,), (200,), (0, 4), (200, 0), (130, 2)])
@pytest.mark.parametrize("equal", [True, False])
def test_tables_of_every_shape_are_compared(shape: tuple[int, ...], equal: bool) -> None:
    table = torch.randn(shape)
    other = table.clone()
    if not equal:
        other.view(-1)[-1:] += 1

    b = GraphBuilder({"ids": ((1,), torch.int64), "x": ("batch", 1)})
    select = torch.ops.aten.index_select.default
    read = [b.call(select, b.state(name, value), 0, b.inputs["ids"]) for name, value in (("a", table), ("b", other))]
    program = b.build(*read, b.inputs["x"])
    assert run("merge-tables", program).records[0].fired == int(equal or not table.numel())


def test_tied_tables_are_no_duplicates() -> None:
    table = nn.Parameter(torch.randn(6, 4))

    def body(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, m.a) + F.embedding(ids, m.b)

    program = program_of(Case(lambda: Function(body, a=table, b=table), IDS))
    assert run("merge-tables", program).records[0].fired == 0


def test_weights_that_are_no_tables_are_left_alone() -> None:
    weight = torch.randn(4, 4)
    body = Function(lambda m, x: F.linear(x, m.a) + F.linear(x, m.b), a=weight.clone(), b=weight.clone())
    program = program_of(Case(lambda: body, (torch.randn(3, 4),)))
    assert run("merge-tables", program).records[0].fired == 0


@few_models
@given(seeds=st.lists(st.integers(0, 2), min_size=2, max_size=5))
def test_as_many_tables_remain_as_are_different(seeds: list[int]) -> None:
    tables = {
        f"t{i}": nn.Parameter(torch.randn(6, 2, generator=torch.Generator().manual_seed(s)))
        for i, s in enumerate(seeds)
    }

    def body(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([F.embedding(ids[:, 0], getattr(m, name)) for name in tables])

    program = program_of(Case(lambda: Function(body, **tables), IDS))
    result = run("merge-tables", program)
    assert len(result.program.state()) == len(set(seeds))
    verify_numeric(program, result.program, Exactness.EXACT)
