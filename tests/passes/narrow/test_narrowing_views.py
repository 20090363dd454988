"""The position, in the source of a reshape, of a selection in its result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfx.passes.narrow.narrowing_views import through_reshape
from recfx.passes.narrow.selection import Cut, Narrow
from recfx.testing import GraphBuilder

BATCH = "batch"

CASES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], Cut, Cut | None]] = {
    "the same shape": ((BATCH, 6, 4), (BATCH, 6, 4), Cut(1), Cut(1)),
    "the last dimension": ((BATCH, 6, 4), (BATCH, 6, 4), Cut(2), Cut(2)),
    "a dimension of one before it is gone": ((BATCH, 1, 6, 4), (BATCH, 6, 4), Cut(1), Cut(2)),
    "a dimension of one before it is new": ((BATCH, 6, 4), (BATCH, 1, 6, 4), Cut(2), Cut(1)),
    "a dimension of two": ((BATCH, 1, 2, 4), (BATCH, 2, 4), Cut(1), Cut(2)),
    "others are split": ((BATCH, 6, 4), (BATCH, 6, 2, 2), Cut(1), Cut(1)),
    "others are joined": ((BATCH, 6, 2, 2), (BATCH, 6, 4), Cut(1), Cut(1)),
    "it is split itself": ((BATCH, 6, 4), (BATCH, 3, 8), Cut(1), None),
    "it is joined with others": ((BATCH, 6, 4), (BATCH, 24), Cut(1), None),
    "it is a part of another": ((BATCH, 6, 4), (BATCH, 2, 12), Cut(2), None),
    "its rows": ((BATCH, 6, 4), (BATCH, 6, 2, 2), Cut(1, 0), Cut(1, 0, 1)),
    "its rows with heads split off": ((f"3*{BATCH}", 6, 4), (BATCH, 3, 6, 4), Cut(2, 0), Cut(1, 0, 3)),
    "its rows with heads joined": ((BATCH, 3, 6, 4), (f"3*{BATCH}", 6, 4), Cut(1, 0, 3), Cut(2, 0, 1)),
    "rows that are parts of rows": ((BATCH, 6, 4), (f"2*{BATCH}", 3, 4), Cut(1, 0, 2), None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_place_through_a_reshape(name: str) -> None:
    source, shape, place, expected = CASES[name]
    b = GraphBuilder({"x": source, "y": shape, "rows": (BATCH,)})
    found = through_reshape(b.inputs["x"], b.inputs["y"].meta["val"].shape, place)
    assert found == (None if expected is None else Narrow(b.inputs["x"], expected))


def test_what_is_no_tensor_has_no_places() -> None:
    b = GraphBuilder({"x": (BATCH, 4)})
    size = b.call(torch.ops.aten.sym_size.int, b.inputs["x"], 0)
    assert through_reshape(size, [1, 4], Cut(1)) is None
