"""A bad id in one column of a matrix: the error names the table, the input and the column, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kit import needs_kernels
from torch import Tensor, nn

import recfx

ROWS = (10, 20, 5)


class Columns(nn.Module):
    """A table for each column, read in one of several spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.tables = nn.ModuleList(nn.Embedding(rows, 4) for rows in ROWS)
        self.linear = nn.Linear(12, 1)

    def columns(self, ids: Tensor) -> Any:
        match self.spelling:
            case "select":
                return [ids[:, i] for i in range(3)]
            case "last":
                return [ids[:, i - 3] for i in range(3)]
            case "slice":
                return [ids[:, i : i + 1] for i in range(3)]
            case "unbind":
                return ids.unbind(1)
            case "split":
                return ids.split(1, 1)
            case "chunk":
                return ids.chunk(3, dim=-1)
            case "cast":
                return [ids.long()[:, i] + 0 for i in range(3)]
        return [ids[:, :2][:, 0], ids[:, 1:][:, 0], ids[:, 1:][:, 1]]

    def forward(self, ids: Tensor) -> Tensor:
        rows = [table(column).reshape(-1, 4) for table, column in zip(self.tables, self.columns(ids), strict=True)]
        return self.linear(torch.cat(rows, 1))


def good(batch: int = 6) -> Tensor:
    return torch.stack([torch.randint(0, rows, (batch,)) for rows in ROWS], 1)


SPELLINGS = ["select", "last", "slice", "unbind", "split", "chunk", "cast", "nested"]
COMPILED: dict[tuple[str, str], recfx.CompiledModel] = {}


def compiled(spelling: str, target: str) -> recfx.CompiledModel:
    if (spelling, target) not in COMPILED:
        model = Columns(spelling).eval()
        COMPILED[spelling, target] = recfx.optimize(model, target=target, example_inputs=good(), measure=False)
    return COMPILED[spelling, target]


@needs_kernels
@given(
    spelling=st.sampled_from(SPELLINGS),
    target=st.sampled_from(["native", "eager"]),
    row=st.integers(0, 5),
    column=st.integers(0, 2),
    negative=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_the_table_and_the_column_are_named(spelling: str, target: str, row: int, column: int, negative: bool) -> None:
    ids = good()
    bad = -1 if negative else ROWS[column]
    ids[row, column] = bad
    with pytest.raises(recfx.InputError) as caught:
        compiled(spelling, target)(ids)
    assert f"the table 'tables.{column}.weight' has {ROWS[column]} rows" in caught.value.what
    assert f"the first bad id is {bad} at position [{row}" in caught.value.what
    assert str(caught.value.where).startswith(f"column {column} of input 'ids'")
    assert caught.value.hint == f"map ids to 0..{ROWS[column] - 1} before the call"
    ids[row, column] = 0
    compiled(spelling, target)(ids)  # as the message says


class Shared(nn.Module):
    """One table for all columns, and a bag."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bag = nn.Embedding(sum(ROWS), 4), nn.EmbeddingBag(7, 4, mode="mean", padding_idx=0)
        self.register_buffer("offsets", torch.tensor([0, 10, 30]))
        self.linear = nn.Linear(16, 1)

    def forward(self, ids: Tensor, history: Tensor) -> Tensor:
        return self.linear(torch.cat([self.table(ids + self.offsets).flatten(1), self.bag(history)], 1))


@needs_kernels
@pytest.mark.parametrize("target", ["native", "eager"])
def test_a_table_of_all_columns_and_a_bag(target: str) -> None:
    history = torch.randint(0, 7, (6, 3))
    fast = recfx.optimize(Shared().eval(), target=target, example_inputs=(good(), history), measure=False)
    ids = good()
    ids[2, 2] = 5
    with pytest.raises(recfx.InputError) as caught:
        fast(ids, history)
    assert "the table 'table.weight' has 35 rows" in caught.value.what
    assert str(caught.value.where).startswith("column 2 of input 'ids'")
    history[1, 2] = 7
    with pytest.raises(recfx.InputError) as caught:
        fast(good(), history)
    assert "the table 'bag.weight' has 7 rows" in caught.value.what
    assert "input 'history'" in str(caught.value.where)
