"""Rows are written to their places in order, with the kernel and without it, and nothing outside a table is written."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import needs_kernels

from recfx.errors import IdError
from recfx.kernels import row_writes
from recfx.kernels.library import missing
from recfx.kernels.row_writes import are_sound, write_rows

BUILT = pytest.param(True, marks=pytest.mark.skipif(missing() is not None, reason="the kernels were not built"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


@pytest.fixture(params=[False, BUILT])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel runs."""
    if not request.param:
        monkeypatch.setattr(row_writes, "missing", lambda: "not built")
    return bool(request.param)


def written(table: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A copy of a table with new rows, one after another."""
    made = table.clone()
    for id_, row in zip(ids.tolist(), rows, strict=True):
        made[id_] = row
    return made


@given(
    size=st.integers(1, 40),
    columns=st.sampled_from([1, 3, 16, 17, 64, 100]),
    dtype=st.sampled_from(DTYPES),
    count=st.integers(0, 60),
    built=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_rows_are_those_of_a_loop(
    size: int, columns: int, dtype: torch.dtype, count: int, built: bool, seed: int
) -> None:
    """Ids occur several times; rows and ids are also strided."""
    generator = torch.Generator().manual_seed(seed)
    table, rows = (
        torch.randint(0, 200, shape, generator=generator).to(dtype) for shape in ((size, columns), (2 * count, columns))
    )
    ids = torch.randint(0, size, (2 * count,), generator=generator)
    want = written(table, ids[::2], rows[::2])
    with pytest.MonkeyPatch.context() as patch:
        if not built:
            patch.setattr(row_writes, "missing", lambda: "not built")
        write_rows(table, ids[::2], rows[::2])
    assert torch.equal(table, want)


@pytest.mark.parametrize("bad", [-1, 5, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("place", [0, 3, 18])
def test_an_id_outside_is_an_error_and_nothing_is_written(kernel: bool, bad: int, place: int) -> None:
    held = torch.arange(7 * 4.0).view(7, 4)
    table, before = held[1:6], held.clone()
    ids = torch.arange(19) % 5
    ids[place] = bad
    with pytest.raises(IdError, match=f"the id {bad} is outside the table of 5 rows"):
        write_rows(table, ids, torch.zeros(19, 4))
    assert torch.equal(held, before)


def test_rows_beside_the_table_stay(kernel: bool) -> None:
    held = torch.zeros(7, 4)
    write_rows(held[1:6], torch.tensor([0, 4]), torch.ones(2, 4))
    assert held.sum(1).tolist() == [0, 4, 0, 0, 0, 4, 0]


@needs_kernels
@pytest.mark.parametrize("columns", [1, 7, 16, 33])
def test_rows_that_fit_are_sound(columns: int) -> None:
    extremes = torch.tensor([3.4e38, -3.4e38, 1e-45, -0.0])
    rows = torch.randn(9, columns)
    rows[0, 0], rows[3, -1], rows[8, 0], rows[5, 0] = extremes
    assert are_sound(torch.tensor([0, 4, 4, 0, 1, 2, 3, 0, 4]), rows, 5)
    assert are_sound(torch.empty(0, dtype=torch.int64), torch.empty(0, columns), 5)


@needs_kernels
@pytest.mark.parametrize("bad", [-1, 5, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("place", [0, 7, 18])
def test_an_id_outside_is_not_sound(bad: int, place: int) -> None:
    ids = torch.arange(19) % 5
    ids[place] = bad
    assert not are_sound(ids, torch.zeros(19, 4), 5)


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (18, 6), (9, 3)])
def test_numbers_that_are_not_finite_are_not_sound(bad: float, row: int, column: int) -> None:
    rows = torch.zeros(19, 7)
    rows[row, column] = bad
    assert not are_sound(torch.zeros(19, dtype=torch.int64), rows, 5)


@needs_kernels
def test_other_tensors_are_left_to_other_checks() -> None:
    ids, rows = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 6)
    assert are_sound(ids, rows, 5)
    assert not are_sound(ids.int(), rows, 5)
    assert not are_sound(ids, rows.double(), 5)
    assert not are_sound(ids, torch.zeros(6, 4).T, 5)
    assert not are_sound(torch.zeros(8, dtype=torch.int64)[::2], rows, 5)
