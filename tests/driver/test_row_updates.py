"""Bad updates are refused with an error that says what to change, and nothing of them is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from live_rows_kit import COLUMNS, ROWS, Tables, inputs, optimize, with_rows

import recfx
from recfx.driver.row_updates import checked_updates, packed_rows
from recfx.driver.table_history import TableRecord
from recfx.errors import IdError
from recfx.formats.rowwise import encode_rows

ONE = torch.tensor([1])
ROW = torch.zeros(1, COLUMNS)
RECORDS = (
    TableRecord(("users.weight", "others.weight"), "users.weight", ROWS, COLUMNS, 32),
    TableRecord(("gone.weight",), "", ROWS, COLUMNS, 32),
)

BAD: dict[str, tuple[Any, str]] = {
    "no mapping": ([("users.weight", (ONE, ROW))], "expected a mapping"),
    "unknown table": ({"clients.weight": (ONE, ROW)}, "no table 'clients.weight'"),
    "not a text": ({3: (ONE, ROW)}, "no table '3'"),
    "not read": ({"gone.weight": (ONE, ROW)}, "does not read it"),
    "one tensor": ({"users.weight": ROW}, "expected \\(ids, rows\\)"),
    "three tensors": ({"users.weight": (ONE, ROW, ROW)}, "expected \\(ids, rows\\)"),
    "two names": ({"users.weight": (ONE, ROW), "others.weight": (ONE, ROW)}, "names it twice"),
    "floating ids": ({"users.weight": (ONE.float(), ROW)}, "its ids are torch.float32"),
    "boolean ids": ({"users.weight": (ONE.bool(), ROW)}, "its ids are torch.bool"),
    "ids of two dimensions": ({"users.weight": (ONE[None], ROW)}, "expected ids \\[n\\]"),
    "fewer rows": ({"users.weight": (torch.tensor([1, 2]), ROW)}, "expected ids \\[n\\]"),
    "other columns": ({"users.weight": (ONE, ROW[:, 1:])}, "rows \\[n, 16\\]"),
    "whole numbers": ({"users.weight": (ONE, ROW.long())}, "its rows are torch.int64"),
    "negative id": ({"users.weight": (-ONE, ROW)}, "the id -1 is outside"),
    "large id": ({"users.weight": (ONE * ROWS, ROW)}, f"the id {ROWS} is outside"),
    "NaN": ({"users.weight": (ONE, ROW * float("nan"))}, "row 0 of the update holds NaN"),
    "infinity": ({"users.weight": (torch.tensor([1, 2]), torch.stack([ROW[0], ROW[0] - float("inf")]))}, "row 1"),
    "words": ({"users.weight": (["a"], ROW)}, "its ids are not numbers"),
    "sparse": ({"users.weight": (ONE, ROW.to_sparse())}, "dense tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_update_is_refused(case: str) -> None:
    updates, message = BAD[case]
    with pytest.raises(recfx.InputError, match=message) as caught:
        checked_updates(RECORDS, updates)
    assert "next:" in str(caught.value)


def test_ids_outside_are_id_errors_and_names_are_listed() -> None:
    with pytest.raises(IdError):
        checked_updates(RECORDS, {"users.weight": (-ONE, ROW)})
    with pytest.raises(recfx.InputError, match=r"users\.weight"):
        checked_updates(RECORDS, {"other": (ONE, ROW)})
    with pytest.raises(recfx.InputError, match="earlier versions"):
        checked_updates((), {"other": (ONE, ROW)})


def test_the_name_of_a_module_stands_for_its_table() -> None:
    (found,) = checked_updates(RECORDS, {"others": (ONE, ROW)})
    assert found.table == 0


def test_lists_and_arrays_are_taken_and_the_last_row_of_an_id_counts() -> None:
    ids = [5, 2, 5, 0, 2]
    rows = np.arange(5 * COLUMNS, dtype=np.float64).reshape(5, COLUMNS)
    (found,) = checked_updates(RECORDS, {"users.weight": (ids, rows)})
    assert found.ids.tolist() == ids
    assert torch.equal(found.rows, torch.from_numpy(rows))
    fast = optimize(Tables().eval())
    fast.update_tables({"users.weight": (ids, rows)})
    held = fast.state_dict()["users.weight"]
    assert torch.equal(held[[0, 2, 5]], torch.from_numpy(rows[[3, 4, 2]]).float())


def test_an_update_without_rows_is_one() -> None:
    (found,) = checked_updates(RECORDS, {"users.weight": (torch.empty(0, dtype=torch.int64), torch.empty(0, COLUMNS))})
    assert len(found.ids) == 0


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("refine", [False, True])
def test_rows_get_the_bytes_of_a_whole_table(bits: int, refine: bool) -> None:
    table = torch.randn(50, COLUMNS)
    table[7] = 0.25
    table[9] = 0
    record = TableRecord(("t",), "t", 50, COLUMNS, bits, refine)
    want = encode_rows(table, bits, refine=refine)
    assert torch.equal(packed_rows(record, want, table[5:12], "t"), want[5:12])


def test_numbers_beyond_the_format_are_refused_and_nothing_is_written() -> None:
    fast = optimize(Tables().eval(), precision="int8")
    before = fast(*inputs())
    with pytest.raises(recfx.InputError, match="row 0 of the update holds"):
        fast.update_tables({"users": (ONE, ROW), "items": (ONE, ROW + 1e6)})
    assert torch.equal(fast(*inputs()), before)
    assert fast.table_version == 0


def test_numbers_beyond_fp16_are_refused() -> None:
    fast = optimize(Tables().eval(), extra_passes={"after:mlp": "quantize-tables{bits=16,format=fp16}"})
    with pytest.raises(recfx.InputError, match="holds NaN or infinities"):
        fast.update_tables({"users": (ONE, ROW + 1e6)})


def test_a_row_whose_values_vanish_becomes_constant() -> None:
    model = Tables().eval()
    fast = optimize(model, precision="int8")
    updates = {"users.weight": (torch.tensor([3]), torch.linspace(1e-9, 2e-9, COLUMNS)[None])}
    fast.update_tables(updates)
    assert torch.equal(fast(*inputs()), optimize(with_rows(model, updates), precision="int8")(*inputs()))
