"""The batch axis of values, and whether the offsets of bags bound whole rows of ids."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from recfx.analysis.batch_axis import Rows, held_by, multiple, offsets_of_fixed_bags, rows_of
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def built() -> tuple[GraphBuilder, Any]:
    """A graph with ids [batch, 3] and x [batch, 4], and the symbol of the batch."""
    b = GraphBuilder({"ids": (("batch", 3), torch.int64), "x": ("batch", 4)})
    return b, b.inputs["ids"].meta["val"].shape[0].node.expr


def test_the_axis_of_rows() -> None:
    b, batch = built()
    x = b.inputs["x"]
    flat = b.call(aten.reshape.default, x, [-1])
    turned = b.call(aten.transpose.int, x, 0, 1)
    outer = b.call(aten.mm.default, x, turned)
    one_less = b.call(aten.slice.Tensor, x, 0, 1, 2**63 - 1)
    assert rows_of(held_by(x), batch) == Rows(0)
    assert rows_of(held_by(flat), batch) == Rows(0, 4)
    assert rows_of(held_by(turned), batch) == Rows(1)
    assert rows_of((held_by(turned), held_by(x)), batch) == Rows(1)
    assert rows_of(held_by(outer), batch) == "it has the batch along two axes"
    assert "not a multiple of the batch" in str(rows_of(held_by(one_less), batch))
    assert rows_of(torch.zeros(3), batch) is None
    assert rows_of((), batch) is None
    assert rows_of(3, batch) is None
    assert held_by(3) is None
    assert multiple(held_by(flat).shape[0], batch) == 4
    assert multiple(held_by(one_less).shape[0], batch) is None


def offsets(b: GraphBuilder, start: int, step: int, more: int = 0) -> fx.Node:
    """`batch + more` numbers from a start by a step."""
    rows = b.call(operator.add, b.call(aten.sym_size.int, b.inputs["ids"], 0), more)
    end = b.call(operator.add, b.call(operator.mul, rows, step), start)
    return b.call(aten.arange.start_step, start, end, step, dtype=torch.int64)


@pytest.mark.parametrize(
    ("start", "step", "more", "fixed"),
    [(0, 3, 0, True), (1, 3, 0, False), (3, 3, 0, False), (0, 2, 0, False), (0, 4, 0, False), (0, 3, 1, False)],
)
def test_offsets_of_whole_rows_start_at_zero_and_step_by_their_length(
    start: int, step: int, more: int, fixed: bool
) -> None:
    b, batch = built()
    flat = b.call(aten.reshape.default, b.inputs["ids"], [-1])
    assert offsets_of_fixed_bags(offsets(b, start, step, more), flat, batch) is fixed


def test_offsets_without_a_step_are_those_of_one_id() -> None:
    b, batch = built()
    one = b.call(aten.select.int, b.inputs["ids"], 1, 0)
    flat = b.call(aten.reshape.default, b.inputs["ids"], [-1])
    end = b.call(aten.sym_size.int, b.inputs["ids"], 0)
    starts = b.call(aten.arange.start_step, 0, end, dtype=torch.int64)
    assert offsets_of_fixed_bags(starts, one, batch)
    assert not offsets_of_fixed_bags(starts, flat, batch)
    assert not offsets_of_fixed_bags(one, one, batch)
    assert not offsets_of_fixed_bags(None, one, batch)
    turned = b.call(aten.transpose.int, b.inputs["ids"], 0, 1)
    assert not offsets_of_fixed_bags(starts, turned, batch)
