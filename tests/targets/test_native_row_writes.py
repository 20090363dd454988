"""Rows are checked, packed and written to their places in order, with the kernel and without it, and nothing outside a table is written."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import needs_kernels

from recfx.errors import InputError
from recfx.formats.rowwise import encode_new_rows, encode_rows
from recfx.kernels import row_writes
from recfx.kernels.library import missing
from recfx.kernels.row_writes import RowUpdate, RowWrites, are_sound, packs

BUILT = pytest.param(True, marks=pytest.mark.skipif(missing() is not None, reason="the kernels were not built"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


@pytest.fixture(params=[False, BUILT])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel runs."""
    if not request.param:
        monkeypatch.setattr(row_writes, "missing", lambda: "not built")
    return bool(request.param)


def written_by(updates: list[RowUpdate]) -> int:
    """What `RowWrites.write` returns."""
    return RowWrites(updates).write()


def written(table: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A copy of a table with new rows, one after another."""
    made = table.clone()
    for id_, row in zip(ids.tolist(), rows, strict=True):
        made[id_] = row
    return made


def table_of(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows in the format of a table, by the reference."""
    if bits in (8, 4, 2):
        return encode_new_rows(rows, bits)
    return rows.to(torch.bfloat16 if bits == 16 else torch.float32)


@given(
    size=st.integers(1, 40),
    columns=st.sampled_from([1, 3, 16, 17, 64, 100]),
    dtype=st.sampled_from(DTYPES),
    count=st.integers(0, 60),
    built=st.booleans(),
    back=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_rows_are_those_of_a_loop(
    size: int, columns: int, dtype: torch.dtype, count: int, built: bool, back: bool, seed: int
) -> None:
    """Ids occur several times. Then the rows are copied to the other table."""
    generator = torch.Generator().manual_seed(seed)
    table, rows = (
        torch.randint(0, 200, shape, generator=generator).to(dtype) for shape in ((size, columns), (count, columns))
    )
    ids = torch.randint(0, size, (count,), generator=generator)
    other, want = table.clone(), written(table, ids, rows)
    with pytest.MonkeyPatch.context() as patch:
        if not built:
            patch.setattr(row_writes, "missing", lambda: "not built")
        writes = RowWrites([RowUpdate(table, other, ids, rows)])
        assert writes.write() == -1
        assert torch.equal(table, want)
        if back:
            writes.take_back()
            assert torch.equal(table, other)
        else:
            ids.zero_()  # the caller may change its tensors
            writes.carry_over()
            assert torch.equal(other, want)


@needs_kernels
@given(
    bits=st.sampled_from([32, 16, 8, 4, 2]),
    columns=st.one_of(st.integers(1, 40), st.sampled_from([64, 255, 300])),
    count=st.integers(0, 30),
    exponent=st.integers(-8, 3),
    seed=st.integers(0, 2**30),
)
def test_rows_are_packed_as_the_reference_packs_them(
    bits: int, columns: int, count: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(20, columns, generator=generator)
    table, rows = table_of(numbers, bits), torch.randn(count, columns, generator=generator) * 10.0**exponent
    ids = torch.randint(0, 20, (count,), generator=generator)
    want = written(table, ids, table_of(rows, bits))
    assert packs(rows, table, bits)
    assert written_by([RowUpdate(table, table.clone(), ids, rows, bits)]) == -1
    assert torch.equal(table, want)


@needs_kernels
def test_rounding_to_bfloat16_is_that_of_torch() -> None:
    """Ties of both signs, subnormal numbers, and the largest numbers that stay finite."""
    bits = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x3F808000, 0x3F818000, 0x7F7F7FFF], dtype=torch.int32)
    rows = torch.cat([bits.view(torch.float32), -bits.view(torch.float32)])[None]
    table = torch.zeros(1, rows.shape[1], dtype=torch.bfloat16)
    assert written_by([RowUpdate(table, table.clone(), torch.tensor([0]), rows, 16)]) == -1
    assert torch.equal(table.view(torch.int16), rows.bfloat16().view(torch.int16))


@needs_kernels
@pytest.mark.parametrize("bits", [32, 16, 8, 4, 2])
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf"), 3.4e38])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (18, 6), (9, 3)])
def test_a_number_that_a_table_cannot_hold_leaves_all_tables(bits: int, bad: float, row: int, column: int) -> None:
    present = table_of(torch.randn(5, 7), bits)
    table, first = present.clone(), present.clone()
    rows, ids = torch.randn(19, 7), torch.arange(19) % 5
    good = RowUpdate(first, present, ids, rows.clone(), bits)
    rows[row, column] = bad
    wrong = written_by([good, RowUpdate(table, present, ids, rows, bits)])
    if bits == 32 and bad == 3.4e38:
        assert wrong == -1
        return
    assert wrong == 1
    assert torch.equal(table, present)
    assert torch.equal(first, present)


@pytest.mark.parametrize("bad", [-1, 5, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("place", [0, 3, 18])
def test_an_id_outside_is_found_and_nothing_is_written(kernel: bool, bad: int, place: int) -> None:
    held, good = torch.arange(7 * 4.0).view(7, 4), torch.zeros(5, 4)
    table, before = held[1:6], held.clone()
    ids = torch.arange(19) % 5
    first = RowUpdate(good, good.clone(), ids.clone(), torch.ones(19, 4))
    ids[place] = bad
    assert written_by([first, RowUpdate(table, table.clone(), ids, torch.zeros(19, 4))]) == 1
    assert torch.equal(held, before)
    assert not good.any()


@needs_kernels
@pytest.mark.parametrize("bad", [-1, 5, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("place", [0, 3, 18])
def test_rows_of_an_update_that_was_refused_are_copied_to_no_other_place(bad: int, place: int) -> None:
    """The kernel keeps the ids that it refuses."""
    held, other = torch.zeros(7, 4), torch.ones(7, 4)
    ids = torch.arange(19) % 5
    ids[place] = bad
    writes = RowWrites([RowUpdate(held[1:6], other[1:6], ids, torch.full((19, 4), 2.0))])
    assert writes.write() == 0
    writes.take_back()
    assert not held[[0, 6]].any()
    writes.carry_over()
    assert bool((other == 1).all())


@needs_kernels
@pytest.mark.parametrize("bits", [-8, 1, 3, 5, 7, 9, 64])
@pytest.mark.parametrize("count", [0, 3])
def test_rows_of_no_format_are_refused(bits: int, count: int) -> None:
    first, table = torch.zeros(5, 4), torch.zeros(5, 40, dtype=torch.uint8)
    good = RowUpdate(first, first.clone(), torch.arange(3), torch.ones(3, 4), 32)
    assert written_by([good, RowUpdate(table, table.clone(), torch.arange(count), torch.ones(count, 4), bits)]) == 1
    assert not first.any()
    assert not table.any()


@needs_kernels
def test_an_id_outside_is_found_before_a_number_that_does_not_fit() -> None:
    """All ids are checked before anything is written; numbers are checked while they are packed."""
    tables = [table_of(torch.zeros(5, 7), 16) for _ in range(2)]
    rows = torch.full((3, 7), float("nan"))
    updates = [RowUpdate(table, table.clone(), torch.tensor([0, 1, 2]), rows, 16) for table in tables]
    assert written_by(updates) == 0
    updates[1].ids[2] = 5
    assert written_by(updates) == 1


@needs_kernels
def test_rows_are_taken_back_where_the_ids_have_changed() -> None:
    """Another thread has changed the tensor of the caller meanwhile."""
    held, present, ids = torch.zeros(7, 4), torch.ones(5, 4), torch.tensor([0, 4, 1])
    writes = RowWrites([RowUpdate(held[1:6], present, ids, torch.full((3, 4), 2.0))])
    assert writes.write() == -1
    ids.copy_(torch.tensor([3, 5, -1]))
    writes.take_back()
    assert held.sum(1).tolist() == [0, 4, 4, 0, 0, 4, 0]


def test_rows_beside_the_table_stay(kernel: bool) -> None:
    held = torch.zeros(7, 4)
    assert written_by([RowUpdate(held[1:6], torch.zeros(5, 4), torch.tensor([0, 4]), torch.ones(2, 4))]) == -1
    assert held.sum(1).tolist() == [0, 4, 0, 0, 0, 4, 0]


def test_the_kernel_packs_no_other_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.zeros(3, 6)
    for bits in (1, 0, 64):
        assert not packs(rows, encode_rows(rows, 1), bits)
    assert not packs(rows, rows.half(), 16)
    assert not packs(rows, rows.double(), 32)
    assert not packs(rows.double(), rows, 32)
    assert not packs(rows[:, :0], rows[:, :0], 32)
    monkeypatch.setattr(row_writes, "missing", lambda: "not built")
    assert not packs(rows, rows, 32)


@needs_kernels
def test_tensors_without_memory_are_refused() -> None:
    rows = torch.zeros(3, 6)
    with pytest.raises(InputError, match="no memory"):
        written_by([RowUpdate(rows, rows.clone(), torch.arange(3), torch.empty_like(rows, device="meta"))])


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
