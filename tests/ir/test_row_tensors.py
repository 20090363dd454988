"""Which fake tensors have contiguous rows, and new ones with as many rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_rows_kit import by_kernel, facts, fakes_of

from recfx.ir.row_tensors import are_sizes, fixed_sizes, new_rows, row_of, same_size, view_of

_aten = torch.ops.aten

#: Tensor -> the sizes of a row, and those of the whole if they are fixed.
ROWS: dict[str, tuple[Any, list[int] | None, list[int] | None]] = {
    "free rows": (fakes_of(("batch", 4, 2))[0], [4, 2], None),
    "fixed rows": (fakes_of((3, 4))[0], [4], [3, 4]),
    "numbers": (fakes_of(("batch",))[0], [], None),
    "a part of each row": (by_kernel(_aten.slice.Tensor, (fakes_of((3, 4))[0], 1, 0, 2)), [2], None),
    "turned rows": (by_kernel(_aten.permute.default, (fakes_of((3, 4, 2))[0], [0, 2, 1])), None, None),
    "no dimension": (fakes_of(())[0], None, []),
    "empty rows": (fakes_of((3, 0))[0], None, None),
    "rows of free sizes": (fakes_of((3, "n"))[0], None, None),
    "one row repeated": (by_kernel(_aten.expand.default, (fakes_of((1, 4))[0], [3, 4])), None, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of(name: str) -> None:
    tensor, row, sizes = ROWS[name]
    assert row_of(tensor) == row
    assert fixed_sizes(tensor) == sizes


def test_new_rows_and_views() -> None:
    (x,) = fakes_of(("batch", 4))
    made = new_rows(x, [2, 3], torch.int64)
    assert facts(made)[:2] == ([x.shape[0].node.expr, 2, 3], [6, 3, 1])
    assert made.dtype is torch.int64
    part = view_of(x, [x.shape[0], 2], [4, 1], 1)
    assert part.storage_offset() == 1
    assert part.untyped_storage()._cdata == x.untyped_storage()._cdata != made.untyped_storage()._cdata


def test_sizes() -> None:
    (x, y) = fakes_of(("batch", "n"), ("batch", 4))
    assert same_size(x.shape[0], y.shape[0])
    assert not same_size(x.shape[0], x.shape[1])
    assert same_size(3, 3)
    assert not same_size(3, x.shape[0])
    assert are_sizes([1, 2])
    assert not are_sizes([1, 0])
    assert not are_sizes(y.shape)
