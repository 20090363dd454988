"""Rows of inputs, selected along the axis of the batch."""

from __future__ import annotations

import pytest
import torch

from recfx.ir.batch_axes import Axis, pick_rows

PICKS = torch.tensor([2, 0, 0])


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 4), Axis(0, 1)), ((2, 3), Axis(1, 1)), ((6, 4), Axis(0, 2)), ((3, 4, 0), Axis(0, 1)), ((0, 6), Axis(1, 2))],
)
def test_rows_are_picked_with_all_their_entries(shape: tuple[int, ...], axis: Axis) -> None:
    """Includes tensors without elements, whose rows cannot be counted by their elements."""
    x = torch.rand(shape)
    entries = (PICKS.unsqueeze(1) * axis.step + torch.arange(axis.step)).flatten()
    assert torch.equal(pick_rows(x, axis, PICKS), x.index_select(axis.dim, entries))
